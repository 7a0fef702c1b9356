"""Two classifiers on the same rows: do their accuracies differ at all?

That is another question than whether a loss is within a margin, and it decides nothing about acceptance. Called by
`compare`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.stats import binomtest, chi2
from torch import Tensor

from distill_mtl.evaluation.bootstrap import group_totals

Test = Literal["exact", "clustered"]


@dataclass(frozen=True)
class McNemar:
    """Rows that one of two networks alone gets right.

    Attributes:
        student_only: rows right by the student alone.
        teacher_only: rows right by the teacher alone.
        p: of so uneven a split, or a more uneven one, if both are equally accurate; both sides.
        test: which one gave it: `exact` for rows that are independent, `clustered` for rows that form groups.
    """

    student_only: int
    teacher_only: int
    p: float
    test: Test


def mcnemar(student: Tensor, teacher: Tensor, groups: Sequence[str]) -> McNemar:
    """McNemar's test (1947, Psychometrika 12(2)) in the form that the groups ask for.

    Rows of their own: the exact, binomial one. Rows in groups: with b_k and c_k the rows of group k that student and
    teacher alone get right, (sum of b_k - c_k)^2 / sum of (b_k - c_k)^2 is compared with chi-square of 1 degree of
    freedom. That is the test of Obuchowski (1998, Statistics in Medicine 17(13)) with the variance of its null
    hypothesis, as Yang, Sun & Hardin (2010, Biometrical Journal 52(5)) modify it. It holds for many groups: where
    student and teacher differ on a handful only, p is a rough figure.

    Args:
        student, teacher: bool [R], the rows that each gets right.
        groups: of each row.
    """
    alone = torch.stack([student & ~teacher, teacher & ~student], dim=1)
    student_only, teacher_only = (int(count) for count in alone.sum(0))
    if len(set(groups)) == len(groups):
        rows = student_only + teacher_only
        p = float(binomtest(student_only, rows).pvalue) if rows else 1.0
        return McNemar(student_only, teacher_only, p, "exact")
    by_group = group_totals(groups, alone)
    lead = by_group[:, 0] - by_group[:, 1]
    spread = float(lead.square().sum())
    p = float(chi2.sf(float(lead.sum()) ** 2 / spread, df=1)) if spread else 1.0
    return McNemar(student_only, teacher_only, p, "clustered")
