"""Whether a teacher does on its own data what it is known to do. A wrong teacher teaches wrong answers well."""

import math
from dataclasses import dataclass

from distill_mtl.checks.measure import Measured
from distill_mtl.tasks.base import TaskKind

TOLERANCE = 2.0
SIGMAS = 2.0


@dataclass(frozen=True)
class Expected:
    """What a teacher is known to score.

    Attributes:
        score: in the units of the task's metric.
        rows: how many rows it was measured on; None where nobody says.
    """

    score: float
    rows: int | None = None


def complaint(measured: Measured, expected: Expected | None, kind: TaskKind) -> str | None:
    """What is wrong with a measured teacher, or None.

    A teacher may fall short of a recorded score by 2 points and by what chance explains: both scores were
    measured on a sample, so the difference has the errors of both. Where scores have a unit of their own, 2 % of
    what lies between a constant answer and the recorded score stand for the 2 points. Without a recorded score it
    must be clearly better than the best constant answer.
    """
    sign = 1 if kind.higher_is_better else -1
    if expected is not None:
        short = sign * (expected.score - measured.score)
        recorded_error = measured.error * math.sqrt(measured.rows / expected.rows) if expected.rows else 0.0
        tolerance = TOLERANCE if kind.in_points else TOLERANCE / 100 * abs(expected.score - measured.constant)
        if short > tolerance and short > SIGMAS * math.hypot(measured.error, recorded_error):
            return f"scores {measured.score:.2f}, expected {expected.score:.2f}"
        return None
    above = sign * (measured.score - measured.constant)
    # Nobody says what to expect, so the bar is low: a tenth of the way from a constant answer to a perfect one.
    if above <= max(0.1 * abs(kind.perfect - measured.constant), SIGMAS * measured.error):
        return f"scores {measured.score:.2f}, hardly better than the best constant answer ({measured.constant:.2f})"
    return None
