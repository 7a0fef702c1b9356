"""The evaluation of forecasts: no merge is forecast from its own runs."""

import math
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import forecasts

from distill_mtl.evaluation.forecast.law import Case


def outcome(merge: str, passes: float, change: float, budget: str = "short") -> forecasts.Outcome:
    known = forecasts.Known(passes=passes, size=2.0, fork=math.nan)
    case = Case(merge=merge, task="a", features=known, change=change)
    return forecasts.Outcome(budget, 10.0, 10 * (1 - math.exp(change)), case)


def test_a_merge_is_not_forecast_from_its_own_runs() -> None:
    others = [outcome(f"m{number}", 2.0 + number, 0.1) for number in range(7)]
    odd = [outcome("odd", 5.0, -3.0), outcome("odd", 25.0, -3.0, "long")]
    found = [each for each in forecasts.judged([*others, *odd], {}) if each.outcome.case.merge == "odd"]
    assert len(found) == 2
    assert all(each.delta == pytest.approx(10 * (1 - math.exp(0.1)), abs=0.2) for each in found)
    assert not any(each.held for each in found)


def test_merges_of_the_same_teachers_can_be_left_out_together() -> None:
    others = [outcome(f"m{number}", 2.0 + number, 0.1) for number in range(7)]
    pair = [outcome("photos", 5.0, -3.0), outcome("vit", 5.0, -3.0)]
    alone = forecasts.judged([*others, *pair], {})[-1]
    apart = forecasts.judged([*others, *pair], forecasts.TEAMS)[-1]
    assert apart.delta == pytest.approx(10 * (1 - math.exp(0.1)), abs=0.2)
    assert alone.delta > apart.delta + 0.5
