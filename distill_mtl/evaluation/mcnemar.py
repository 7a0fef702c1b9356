"""McNemar's test: do the accuracies of two classifiers on the same rows differ?

That is another question than whether a loss is within a margin, and it decides nothing about acceptance. Called by
`compare`.
"""

from collections.abc import Sequence

import torch
from scipy.special import bdtr, chdtrc
from torch import Tensor

from distill_mtl.evaluation.bootstrap import group_totals
from distill_mtl.evaluation.result import McNemar

_FEW_GROUPS = 16


def mcnemar(student: Tensor, teacher: Tensor, groups: Sequence[str]) -> McNemar:
    """McNemar's test (1947, Psychometrika 12(2)) in the form that the groups ask for.

    Rows of their own: the exact, binomial one. Rows in groups: with b_k and c_k the rows of group k that student and
    teacher alone get right, (sum of b_k - c_k)^2 / sum of (b_k - c_k)^2 is compared with chi-square of 1 degree of
    freedom. That is the test of Obuchowski (1998, Statistics in Medicine 17(13)) with the variance of its null
    hypothesis, as Yang, Sun & Hardin (2010, Biometrical Journal 52(5)) modify it. It holds for many groups; of up to
    16 on which the two differ, every assignment of the leads' signs is counted instead, which is exact (Fisher's
    randomisation; Good 2005, chapter 3).

    Args:
        student, teacher: bool [R], the rows that each gets right.
        groups: of each row.
    """
    alone = torch.stack([student & ~teacher, teacher & ~student], dim=1)
    student_only, teacher_only = (int(count) for count in alone.sum(0))
    if len(set(groups)) == len(groups):
        rows = student_only + teacher_only
        p = min(1.0, 2 * float(bdtr(min(student_only, teacher_only), rows, 0.5)))
        return McNemar(student_only, teacher_only, p, "exact")
    by_group = group_totals(groups, alone)
    lead = by_group[:, 0] - by_group[:, 1]
    lead = lead[lead != 0]
    p = _by_signs(lead) if len(lead) <= _FEW_GROUPS else _by_chi_square(lead)
    return McNemar(student_only, teacher_only, p, "clustered")


def _by_signs(lead: Tensor) -> float:
    """Share of all signs of the leads [G] with which their sum is as far from 0."""
    sums = torch.zeros(1, dtype=lead.dtype)
    for one in lead:
        sums = torch.cat([sums + one, sums - one])
    return float((sums.abs() >= lead.sum().abs()).double().mean())


def _by_chi_square(lead: Tensor) -> float:
    return float(chdtrc(1, float(lead.sum()) ** 2 / float(lead.square().sum())))
