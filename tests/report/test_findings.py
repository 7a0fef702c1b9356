"""Where a student lost, and what to try: each cause from numbers that show it, and silence where none do."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import report_world
import yaml
from result_toys import evaluation_of, task_result

from distill_mtl.evaluation.result import ClassDelta, CrossDomainAgreement, StudentScore
from distill_mtl.jobs.report import report_in
from distill_mtl.recipe.schema import Recipe
from distill_mtl.report.findings import Finding, findings_of
from distill_mtl.report.run_record import Curve, Metrics, RunRecord, read_metrics, read_run
from distill_mtl.report.run_report import report_of, report_of_result

STEPS = np.linspace(600, 1000, 6)
LINES = np.arange(10.0, 1010.0, 10.0)
LOST = {"left": task_result(-5.0), "right": task_result(0.1)}
RECIPE = """
student: {model: test_resnet}
tasks: {left: {}, right: {}}
data: {near: {shards: x.tar, labels: {left: {}}}, far: {shards: y.tar, labels: {right: {}}}}
optimizer: {weight_decay: 0.05}
training: {steps: 1000, clip: 1.0, workers: 2, teachers_on: missing}
balance: {method: mgda_ub}
"""


def of(
    *, tasks: Any = None, metrics: Metrics | None = None, recipe: str = RECIPE, **results: Any
) -> list[Finding]:
    """The findings of a run of 1,000 steps whose task `left` lost five points."""
    evaluation = evaluation_of(tasks or LOST, steps=1000, **results)
    return findings_of(RunRecord(evaluation, metrics=metrics or Metrics(), recipe_text=recipe))


def only(found: list[Finding]) -> Finding:
    (finding,) = found
    return finding


def tried(finding: Finding) -> Any:
    return yaml.safe_load(finding.recipe)


def rising(points_in_100_steps: float, noise: float = 0.1) -> dict[str, Curve]:
    values = 90 + points_in_100_steps * (STEPS - 600) / 100 + noise * np.array([1, -1, 1, -1, 1, -1])
    return {"left": Curve(STEPS, values)}


def flat(value: float) -> Curve:
    return Curve(LINES, np.full(len(LINES), value))


def test_numbers_that_show_nothing_make_no_finding() -> None:
    assert of() == []
    assert of(tasks={"left": task_result(0.3)}, metrics=Metrics(validation=rising(1.0))) == []


def test_a_student_that_still_improved_needs_so_many_more_steps() -> None:
    found = only(of(metrics=Metrics(validation=rising(1.0))))
    for number in ("+0.9", "± 0.1", "last 400 steps", "about 520 steps"):
        assert number in found.found
    assert tried(found) == {"training": {"steps": 1500}}


def test_a_slope_within_its_uncertainty_is_none() -> None:
    assert of(metrics=Metrics(validation=rising(0.1, noise=1.0))) == []
    assert of(metrics=Metrics(validation=rising(-1.0))) == []
    few = Curve(STEPS[:3], np.array([90.0, 91.0, 92.0]))
    assert of(metrics=Metrics(validation={"left": few})) == []


def test_a_teacher_that_no_longer_run_reaches_is_out_of_reach() -> None:
    found = only(of(metrics=Metrics(validation=rising(0.02, noise=0.0))))
    assert "out of reach" in found.found
    assert tried(found) == {"training": {"steps": 4000}}


def test_a_run_that_counts_epochs_is_made_longer_in_epochs() -> None:
    recipe = RECIPE.replace("steps: 1000", "epochs: 10")
    found = only(of(metrics=Metrics(validation=rising(1.0)), recipe=recipe))
    assert tried(found) == {"training": {"epochs": 15}}


def test_an_error_that_falls_is_an_improvement() -> None:
    error = task_result(-5.0, 20.0, student=25.0, higher_is_better=False, metric="mean_angle")
    falling = Metrics(validation={"left": Curve(STEPS, 30 - (STEPS - 600) / 100)})
    assert "Still improving" in only(of(tasks={"left": error}, metrics=falling)).found


def test_rows_learned_by_heart() -> None:
    found = only(of(training_rows={"left": StudentScore(99.5, 500, (99.0, 99.9))}))
    assert "99.50 on 500 training rows, 92.00 on test rows: 7.50 ± 0.5" in found.found
    assert "teachers_on: all" in found.recipe
    assert "weight_decay: 0.1" in found.recipe


def test_rows_that_were_not_learned() -> None:
    found = only(of(training_rows={"left": StudentScore(92.5, 500, (90.0, 94.0))}))
    assert "92.50 on 500 training rows, its teacher 97.00" in found.found
    assert "test_resnet" in found.remedy


def test_training_rows_between_student_and_teacher_say_nothing() -> None:
    assert of(training_rows={"left": StudentScore(94.0, 60, (88.0, 98.0))}) == []


@pytest.mark.parametrize(
    ("method", "balance"),
    [
        ("mgda_ub", {"method": "mgda_ub", "options": {"prefer": ["left >= 2 * right"]}}),
        ("uniform", {"method": "fixed", "options": {"weights": {"left": 5, "right": 1}}}),
    ],
)
def test_a_task_that_hardly_moves_the_trunk(method: str, balance: dict[str, Any]) -> None:
    metrics = Metrics(lengths={"left": flat(0.1), "right": flat(0.9)}, weights={"left": flat(0.02)})
    found = only(of(metrics=metrics, recipe=RECIPE.replace("mgda_ub", method)))
    for number in ("left 10.0 %", "weight 0.02", "50.0 %"):
        assert number in found.found
    assert tried(found) == {"balance": balance}


def test_a_small_share_of_a_task_that_did_not_lose_is_none() -> None:
    assert of(metrics=Metrics(lengths={"left": flat(0.9), "right": flat(0.1)})) == []


def test_classes_that_lost_more_than_their_task() -> None:
    classes = (ClassDelta("owl", 95.0, 55.0, -40.0), ClassDelta("cat", 95.0, 94.0, -1.0))
    found = only(of(tasks={**LOST, "left": task_result(-5.0, classes=classes)}))
    assert "left −5.00, but owl −40.00" in found.found
    assert "cat" not in found.found
    by_chance = task_result(
        0.1, classes=(ClassDelta("owl", 97.0, 95.0, -2.0), ClassDelta("cat", 97.0, 97.0, 0.0))
    )
    assert of(tasks={"left": replace(by_chance, rows=400)}) == []
    assert tried(found) == {"data": {"near": {"class_balance": True}}}


def test_a_teacher_that_is_asked_about_foreign_pictures() -> None:
    found = only(of(cross_domain={"left": {"far": CrossDomainAgreement(500, 0.6)}}))
    assert "left 98.1 % on its own rows, 60.0 % on 500 of far" in found.found
    assert tried(found) == {"tasks": {"left": {"teacher_weight": {"far": 0.1}}}}
    assert of(cross_domain={"left": {"far": CrossDomainAgreement(500, 0.95)}}) == []
    silent = RECIPE.replace("left: {}, right", "left: {teacher_weight: {far: 0}}, right")
    assert of(cross_domain={"left": {"far": CrossDomainAgreement(500, 0.6)}}, recipe=silent) == []


def test_a_hint_that_does_not_fall() -> None:
    found = only(of(metrics=Metrics(terms={"left": {"hint": flat(0.4)}})))
    assert "left 0.4 early, 0.4 at the end" in found.found
    assert tried(found) == {"tasks": {"left": {"weights": {"hint": 0}}}}
    assert of(metrics=Metrics(terms={"left": {"hint": Curve(LINES, 1 / LINES)}})) == []


def test_gradients_that_are_clipped_in_most_steps() -> None:
    found = only(of(metrics=Metrics(clipped=flat(0.8), gradient_norm=flat(2.5))))
    for number in ("at 1 ", "80 %", "2.5"):
        assert number in found.found
    assert tried(found) == {"training": {"clip": 5}}
    assert of(metrics=Metrics(clipped=flat(0.2), gradient_norm=flat(0.5))) == []
    muon = RECIPE.replace("optimizer: {", "optimizer: {name: muon, ")
    assert of(metrics=Metrics(clipped=flat(0.8), gradient_norm=flat(2.5)), recipe=muon) == []


def test_steps_that_wait_for_their_rows_are_found_in_every_run() -> None:
    won = {"left": task_result(0.3)}
    found = only(of(tasks=won, metrics=Metrics(waiting=flat(0.4))))
    assert "40 %" in found.found
    assert tried(found) == {"training": {"workers": 4}}
    assert of(tasks=won, metrics=Metrics(waiting=flat(0.05))) == []


@pytest.mark.parametrize("section", ["null", "{steps: many, clip: [1], workers: -1}"])
def test_a_recipe_that_was_changed_by_hand_breaks_nothing(section: str) -> None:
    recipe = f"tasks: {{left: {{}}}}\noptimizer: {section}\nschedule: {section}\n"
    metrics = Metrics(validation=rising(1.0), clipped=flat(0.8), gradient_norm=flat(2.5), waiting=flat(0.4))
    trained = {"left": StudentScore(99.5, 500, (99.0, 99.9))}
    assert len(of(metrics=metrics, recipe=recipe, training_rows=trained)) == 4


def test_causes_come_in_the_order_of_the_page_and_their_lines_are_a_recipe() -> None:
    found = of(
        tasks={**LOST, "left": task_result(-5.0, classes=(ClassDelta("owl", 95.0, 55.0, -40.0),))},
        metrics=Metrics(
            validation=rising(1.0),
            clipped=flat(0.8),
            gradient_norm=flat(2.5),
            waiting=flat(0.4),
            lengths={"left": flat(0.1), "right": flat(0.9)},
            terms={"left": {"hint": flat(0.4)}},
        ),
        training_rows={"left": StudentScore(99.5, 500, (99.0, 99.9))},
        cross_domain={"left": {"far": CrossDomainAgreement(500, 0.6)}},
    )
    beginnings = ("Still", "Better on rows", "A small part", "Classes", "Student and teacher", "The hint")
    for finding, beginning in zip(found, (*beginnings, "Gradients", "Steps waited"), strict=True):
        assert finding.found.startswith(beginning)
    recipe = yaml.safe_load(RECIPE) | {"tasks": {"left": {"classes": 2}, "right": {"classes": 2}}}
    for finding in found:
        for line in finding.recipe.splitlines():
            _merge(recipe, yaml.safe_load(line))
    Recipe.model_validate(recipe)


def _merge(into: dict[str, Any], new: dict[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def test_the_findings_stand_at_the_end_of_the_page_in_markdown_and_above_the_verdict(tmp_path: Path) -> None:
    lost = report_world.task(student=80.0, delta=-10.0, ci95=[-12.0, -8.0])
    content = report_world.results({"breed": lost})
    content["training_rows"] = {"breed": {"score": 99.0, "rows": 400, "ci95": [98.5, 99.5]}}
    folder = report_world.write_run(tmp_path / "run", content)
    report_in(folder)
    page = (folder / "report.html").read_text()
    end = page[page.index('<section id="findings">') :]
    assert end.count("<section") == 1
    assert "99.00 on 400 training rows" in end
    assert "teachers_on: all" in (folder / "report.md").read_text()
    run = read_run(folder)
    notes = [note for section in report_of(run).sections for note in section.notes]
    assert any("99.00 on 400 training rows" in note for note in notes)
    assert run.results is not None
    alone = report_of_result(run.results)
    assert "findings" not in [section.name for section in alone.sections], "it has no run to explain"


def test_a_run_with_nothing_to_say_says_so_and_what_it_did_not_measure(tmp_path: Path) -> None:
    content = report_world.results({"breed": report_world.task(classes=None)})
    folder = report_world.write_run(tmp_path / "run", content)
    report_in(folder)
    page = (folder / "report.html").read_text()
    end = page[page.index('<section id="findings">') :]
    assert "Nothing to say" in end
    assert "validation scores in training" in end
    unfinished = report_world.write_run(tmp_path / "unfinished", finished=False)
    report_in(unfinished)
    assert 'id="findings"' not in (unfinished / "report.html").read_text()


def test_a_log_gives_the_curves_that_findings_need(tmp_path: Path) -> None:
    line = {"step": 10, "tasks": {}, "cosines": {}, "norm": None, "lengths": {"left": 0.5}, "clipped": 0.25}
    later = {**line, "step": 20, "validation": {"left": 91.0}, "waiting": 0.1, "gradient_norm": 2.0}
    (tmp_path / "metrics.jsonl").write_text(f"{json.dumps(line)}\n{json.dumps(later)}\n")
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    assert metrics.validation["left"].values.tolist() == [91.0]
    assert metrics.lengths["left"].values.tolist() == [0.5, 0.5]
    assert metrics.clipped is not None
    assert metrics.clipped.mean == 0.25
    assert metrics.norm is None
