"""The verdict on one task, from a difference and its interval: may the student replace the teacher?

A test of non-inferiority (Piaggio et al. 2012, "Reporting of Noninferiority and Equivalence Randomized Trials", JAMA
308(24), figure 1): not that no difference was found, but that one beyond the margin is excluded. `Evaluation` calls
this.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from distill_mtl.evaluation.bootstrap import LEVEL, rows_to_exclude, unseen_difference

AcceptanceRule = Literal["interval", "point"]
Decision = Literal["non-inferior", "inferior", "undecided"]

POWER = 0.9
"""How often the rows that `rows_to_decide` asks for do decide, if the true difference is the one measured."""
# Scores are sums of fractions: a drop of exactly the margin must not fail by its last bit.
_ROUNDING = 1e-9
_MOST_ROWS = 10**9
_NORMAL = NormalDist()
_ENOUGH = 1 + _NORMAL.inv_cdf(POWER) / _NORMAL.inv_cdf((1 + LEVEL) / 2)


@dataclass(frozen=True)
class Verdict:
    """The verdict on a task, with its margin and rows to decide.

    Attributes:
        decision: `non-inferior`, `inferior` or `undecided`.
        rows_to_decide: about how many more rows would end `undecided`: with them nine sets in ten (`POWER`) decide,
            if the true difference is the one measured. None: it is decided, or no number of rows is known to help.
    """

    decision: Decision
    rows_to_decide: int | None = None


def judge(
    delta: float, ci95: tuple[float, float] | None, rows: int, margin: float, rule: AcceptanceRule
) -> Verdict:
    """The verdict on a task.

    Args:
        delta: the measured difference, positive where the student is better.
        ci95: its interval; None where all rows form one group, which leaves `interval` undecided.
        rows: that were measured.
        margin: largest loss that is allowed, in the score's unit; 0 or more.
        rule: `interval`: `non-inferior` when its lower end is above -margin, `inferior` when its upper end is below,
            else `undecided`. `point`: the measured difference alone, `non-inferior` from -margin on.
    """
    if rule == "point":
        return Verdict("non-inferior" if delta >= -margin - _ROUNDING else "inferior")
    if ci95 is None:
        return Verdict("undecided")
    low, high = ci95
    if low > -margin + _ROUNDING:
        return Verdict("non-inferior")
    if high < -margin - _ROUNDING:
        return Verdict("inferior")
    more = _more_rows(delta, ci95, margin, rows)
    return Verdict("undecided", None if more is None else max(1, math.ceil(more)))


def _more_rows(delta: float, ci95: tuple[float, float], margin: float, rows: int) -> float | None:
    """About how many more rows, in groups of the size they have now, decide; None: more than can be collected.

    The interval shrinks as 1 / sqrt(rows). To reach from delta just to the margin decides half of all sets, as delta
    itself varies; for `POWER` of them it must be shorter, as in every sample size formula. Where nothing differed it
    shrinks as 1 / rows, and only as long as nothing does.
    """
    distance = abs(delta + margin)
    if distance <= _ROUNDING:
        return None
    if ci95 == unseen_difference(rows):
        return rows_to_exclude(distance) - rows
    reach = max(delta - ci95[0] if delta > -margin else ci95[1] - delta, (ci95[1] - ci95[0]) / 2)
    more = rows * ((_ENOUGH * reach / distance) ** 2 - 1)
    return more if more <= _MOST_ROWS else None
