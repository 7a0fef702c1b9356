"""The report says what each teacher was worth, and claims it only where a student without teachers was measured."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import report_world
import yaml
from result_toys import evaluation_of, task_result

from distill_mtl.evaluation.result import Baseline, BaselineScore, CrossDomainAgreement
from distill_mtl.jobs.report import report_in
from distill_mtl.report.findings import findings_of
from distill_mtl.report.run_record import Curve, Metrics, RunRecord
from distill_mtl.report.teacher_worth import Difference, worth_of

RECIPE = """
tasks: {left: {teacher_weight: {far: 0.0, near: 0.5, pool: 1.0}}, right: {}}
training: {teachers_on: ON}
"""


def curve(early: float, late: float) -> Curve:
    return Curve(np.array([10.0, 20.0, 30.0, 40.0]), np.array([early, late, late, late]))


def of(on: str = "missing", **changes: Any) -> RunRecord:
    """A run of `left`, 2 points ahead of its teacher, and `right`, which has none."""
    terms = {
        "total": curve(9, 4),
        "supervised": curve(1, 3),
        "soft_targets": curve(8, 0.8),
        "hint": curve(0, 0.2),
    }
    evaluation = evaluation_of({"left": task_result(2.0), "right": task_result(None)}, **changes)
    return RunRecord(evaluation, metrics=Metrics(terms={"left": terms}), recipe_text=RECIPE.replace("ON", on))


def labels_only(delta: float, half: float) -> dict[str, Baseline]:
    score = BaselineScore(97 + delta, delta, (delta - half, delta + half))
    model = BaselineScore(10.0, -87.0, (-88.0, -86.0))
    return {
        "other": Baseline("model", {"left": model}),
        "alone": Baseline("labels_only", {"left": score, "right": BaselineScore(1.0, None, None)}),
    }


def test_only_tasks_with_a_teacher_have_a_line() -> None:
    assert list(worth_of(of())) == ["left"]
    assert worth_of(RunRecord(None)) == {}


def test_a_teacher_that_fell_silent_has_no_part_of_the_second_half() -> None:
    run = of("annealed")
    silent = Curve(np.array([10.0]), np.array([8.0]))
    terms = {"left": {**run.metrics.terms["left"], "soft_targets": silent, "hint": silent}}
    worth = worth_of(replace(run, metrics=Metrics(terms=terms)))["left"]
    assert worth.loss == 0


def test_the_teachers_part_is_of_what_the_task_added_in_the_second_half() -> None:
    worth = worth_of(of())["left"]
    assert worth.loss == pytest.approx(0.25)
    assert worth.lead == Difference(2.0, pytest.approx(0.25))
    assert worth.labels_alone is None, "it was not measured"


def test_agreement_elsewhere_is_the_mean_over_all_pictures() -> None:
    found = {
        "far": CrossDomainAgreement(300, 0.5),
        "pool": CrossDomainAgreement(100, 0.9),
        "none": CrossDomainAgreement(0, None),
    }
    assert worth_of(of(cross_domain={"left": found}))["left"].elsewhere == pytest.approx(0.6)
    assert worth_of(of())["left"].elsewhere is None


@pytest.mark.parametrize(
    ("on", "asked"),
    [
        ("missing", "rows without its label; not far; near at 0.5"),
        ("all", "every row; not far; near at 0.5"),
        ("none", "no row"),
        ("[changed by hand]", ""),
    ],
)
def test_what_a_teacher_was_asked_about_is_what_the_recipe_says(on: str, asked: str) -> None:
    assert worth_of(of(on))["left"].asked == asked


def test_the_worth_is_the_lead_over_labels_alone_with_both_uncertainties() -> None:
    worth = worth_of(of(baselines=labels_only(-3.0, 0.6)))["left"].labels_alone
    assert worth == Difference(pytest.approx(5.0), pytest.approx(0.65))


def test_teachers_that_cost_points_are_a_finding_and_are_turned_down() -> None:
    (found,) = findings_of(of(baselines=labels_only(4.0, 0.6)))
    assert found.found == "Worse than the same student trained on labels alone: left −2.00 ± 0.65."
    assert yaml.safe_load(found.recipe) == {"tasks": {"left": {"weights": {"soft_targets": 0.1, "hint": 0}}}}
    assert findings_of(of(baselines=labels_only(2.5, 0.6))) == [], "within chance"
    assert findings_of(of(baselines=labels_only(-4.0, 0.6))) == []


def test_the_table_has_the_columns_that_were_measured_and_the_command_for_the_other(tmp_path: Path) -> None:
    folder = report_world.write_run(tmp_path / "run")
    report_in(folder)
    text = (folder / "report.md").read_text()
    table = text[text.index("## What each teacher was worth") :]
    assert "| breed | 9 % | 95.0 % | 71.0 % | −0.50 ± 0.55 | +9.50 ± 2.07 |" in table
    assert "asked about" not in table, "the recipe does not say"
    assert "--baseline" not in table
    page = (folder / "report.html").read_text()
    assert page.index('<section id="worth">') < page.index('<section id="findings">')
    alone = report_world.write_run(tmp_path / "alone", report_world.results(baselines={}))
    report_in(alone)
    end = (alone / "report.md").read_text().partition("## What each teacher was worth")[2]
    assert "labels alone |" not in end
    assert f"distill-mtl evaluate {alone} --baseline labels_only" in end
