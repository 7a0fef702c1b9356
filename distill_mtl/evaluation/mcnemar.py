"""Two classifiers on the same rows: the exact test of whether their accuracies differ."""

from dataclasses import dataclass

from scipy.stats import binomtest


@dataclass(frozen=True)
class McNemar:
    """Rows that one of two networks alone gets right.

    Attributes:
        student_only: rows right by the student alone.
        teacher_only: rows right by the teacher alone.
        p: of so uneven a split, or a more uneven one, if both are equally accurate; both sides.
    """

    student_only: int
    teacher_only: int
    p: float


def mcnemar(student_only: int, teacher_only: int) -> McNemar:
    """The exact, binomial form of McNemar's test (1947, Psychometrika 12(2)), for independent rows.

    It asks whether the accuracies differ at all, which is another question than whether the loss is within a margin.
    """
    rows = student_only + teacher_only
    p = float(binomtest(student_only, rows).pvalue) if rows else 1.0
    return McNemar(student_only, teacher_only, p)
