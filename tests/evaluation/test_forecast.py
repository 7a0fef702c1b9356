"""Forecasts: the law is found again, intervals hold as often as they say over merges that were not seen, and the table
of what was forecast keeps what came out."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distill_mtl.errors import UserError
from distill_mtl.evaluation.forecast.law import FEWEST, Case, ErrorLaw, Features, error_of, log_ratio
from distill_mtl.evaluation.forecast.table import (
    FILE,
    ForecastTable,
    ForecastTask,
    Line,
    cases_of,
    finished,
    measured_cases,
    write_measured,
)


def law_of(features: Features) -> float:
    return 0.3 - 0.2 * math.log(features.passes) + 0.1 * math.log(features.size)


def merges(number: int, seed: int, noise: float, *, lengths: int = 1) -> list[Case]:
    """Merges of two tasks, each off the law by what its merge, its task and its run add."""
    draws = np.random.default_rng(seed)
    cases = []
    for merge in range(number):
        passes, size, off = draws.uniform(1, 30), draws.uniform(1, 20), draws.normal(0, noise)
        for task in ("a", "b"):
            of_task = off + draws.normal(0, noise)
            for length in range(lengths):
                features = Features(passes=passes * 5**length, size=size)
                change = law_of(features) + of_task + draws.normal(0, noise / 10)
                cases.append(Case(merge=f"m{merge}", task=task, features=features, change=change))
    return cases


def test_a_power_law_is_found_again() -> None:
    law = ErrorLaw(merges(40, 0, 0.0, lengths=2))
    asked = Features(passes=20, size=4)
    found = law.forecast(asked)
    assert found is not None
    assert found.middle == pytest.approx(law_of(asked), abs=0.02)
    assert found.low <= found.middle <= found.high


def test_intervals_hold_about_four_of_five_merges_that_were_not_seen() -> None:
    held = []
    for seed in range(100):
        cases = merges(10, seed, 0.2)
        law = ErrorLaw([case for case in cases if case.merge != "m0"])
        for case in cases[:2]:
            found = law.forecast(case.features)
            assert found is not None
            held.append(found.low <= case.change <= found.high)
    assert 0.7 < np.mean(held) < 0.95


def test_a_few_merges_give_no_interval() -> None:
    assert ErrorLaw(merges(FEWEST - 1, 0, 0.1)).forecast(Features(passes=3, size=2)) is None


def test_each_merge_weighs_the_same_however_many_runs_it_has() -> None:
    cases = merges(8, 0, 0.2)
    asked = Features(passes=5, size=3)
    once, often = ErrorLaw(cases), ErrorLaw([*cases, *cases[:2] * 9])
    one, other = once.forecast(asked), often.forecast(asked)
    assert one is not None
    assert other is not None
    assert (other.low, other.high) == pytest.approx((one.low, one.high), abs=0.1)


def test_what_is_far_from_every_known_run_is_named() -> None:
    law = ErrorLaw(merges(8, 0, 0.2))
    assert law.unlike(Features(passes=10, size=3)) == ""
    assert "passes over the data" in law.unlike(Features(passes=1000, size=3))
    assert "student's parameters" in law.unlike(Features(passes=10, size=0.01))


def test_a_forecast_in_points_has_the_sign_of_a_gain() -> None:
    found = ErrorLaw(merges(8, 0, 0.2)).forecast(Features(passes=5, size=3))
    assert found is not None
    delta, low, high = found.in_points(20.0)
    assert low <= delta <= high < 20
    assert delta == pytest.approx(20 * (1 - math.exp(found.middle)))


def test_errors_are_distances_from_a_perfect_score() -> None:
    assert error_of(97.0, higher_is_better=True, in_points=True) == 3.0
    assert error_of(99.9, higher_is_better=True, in_points=True) == 0.5
    assert error_of(0.02, higher_is_better=False, in_points=False) == 0.02
    assert log_ratio(2.0, 1.0) == pytest.approx(math.log(2))
    assert log_ratio(0.0, 1.0) is None


def test_the_measured_runs_come_with_the_package_and_give_a_law() -> None:
    law = ErrorLaw(measured_cases())
    assert law.merges >= 8
    found = law.forecast(Features(passes=4, size=10))
    assert found is not None
    assert found.low < found.middle < found.high


def test_what_comes_with_the_package_is_read_as_it_is_written(tmp_path: Path) -> None:
    write_measured(measured_cases(), tmp_path / "cases.json")
    assert measured_cases(tmp_path / "cases.json") == measured_cases()


def line(**changes: object) -> Line:
    task = ForecastTask(metric="accuracy", passes=4.0, size=2.0, error=10.0, delta=-1.0, low=-3.0, high=1.0)
    given = {"recipe": "r", "written": "2026-11-29", "merge": "m", "steps": 100, "tasks": {"a": task}}
    return Line(**(given | changes))  # type: ignore[arg-type]


def test_the_table_gives_back_what_was_appended(tmp_path: Path) -> None:
    table = ForecastTable(tmp_path / "runs")
    assert table.lines() == []
    done = replace(line().tasks["a"], outcome=-4.0, change=0.34)
    written = [line(), line(run="runs/a", tasks={"a": done})]
    for each in written:
        table.append(each)
    assert table.lines() == written
    assert [task.held for task in finished(written)] == [False]
    assert [(case.merge, case.change) for case in cases_of(written)] == [("m", 0.34)]


def test_a_half_written_last_line_is_left_out_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    table = ForecastTable(tmp_path)
    table.append(line())
    whole = table.path.read_text()
    table.path.write_text(whole + whole[:40])
    assert table.lines() == [line()]
    table.append(line(steps=3))
    assert table.lines() == [line(), line(steps=3)]
    table.path.write_text(whole + '{"recipe": 3}\n' + whole)
    with pytest.raises(UserError, match=f"{FILE}, line 2"):
        table.lines()
