"""Scores and differences as text, for tables and sentences."""

import math

from distill_mtl.evaluation.result import TaskResult

NONE = "–"


def rounded(value: float, result: TaskResult, sign: str = "") -> str:
    """To a hundredth of a point; of a unit, in which a hundredth may be everything or nothing, to four digits of
    the student's score."""
    places = 2
    if not result.in_points and result.student:
        places = max(0, 3 - math.floor(math.log10(abs(result.student))))
    return f"{value:{sign}.{places}f}"


def signed(value: float | None, result: TaskResult) -> str:
    """A difference in the digits of its task's score."""
    if value is None:
        return NONE
    text = rounded(value, result, "+")
    return "0.00" if float(text) == 0 else text.replace("-", "−")
