"""The result as data: what results.json holds, what is decided, and which files are refused."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from result_toys import STUDENT, evaluation_of, task_result, toy_evaluation, with_margins, with_rule

from distill_mtl.errors import UserError
from distill_mtl.evaluation import Evaluation
from distill_mtl.evaluation.network_costs import HeadCost
from distill_mtl.evaluation.result import (
    FORMAT,
    VERSION,
    Baseline,
    BaselineScore,
    CalibrationError,
    ClassDelta,
    CrossDomainAgreement,
    Disagreement,
    McNemar,
    margins_by_task,
)


def full_evaluation() -> Evaluation:
    """With something in every field."""
    left = task_result(
        mcnemar=McNemar(3, 9, 0.15, "exact"),
        ece=CalibrationError(1.5, None),
        classes=(ClassDelta("a", 90.0, 1 / 3, 1 / 3 - 90.0),),
        disagreements=(Disagreement("set/000/00001", "a", None, "b", 0.1),),
    )
    plain = evaluation_of({"left": left, "alone": task_result(None)})
    heads = {"left": HeadCost.of(12_458, 391_000, STUDENT)}
    return plain.changed(
        cost=replace(plain.cost, heads=heads, each={"left": STUDENT}, machine="a CPU"),
        cross_domain={"left": {"far": CrossDomainAgreement(16, 0.5), "empty": CrossDomainAgreement(0, None)}},
        baselines={
            "labels_only": Baseline("labels_only", {"left": BaselineScore(96.5, -0.5, (-1.25, 0.25))})
        },
        hashed=("left",),
        steps=400,
        seconds=61.5,
        student="runs/a",
        against="runs/b",
    )


def test_results_json_has_the_promised_keys_and_no_others(tmp_path: Path) -> None:
    evaluation = toy_evaluation()
    evaluation.write(tmp_path / "results.json")
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    written = json.loads((tmp_path / "results.json").read_text())
    assert set(written) == {
        *("format", "version", "tasks", "cost", "cross_domain", "baselines", "split", "hashed"),
        *("acceptance", "accepted", "distill_mtl", "training_rows", "steps", "seconds"),
    }
    assert (written["format"], written["version"]) == (FORMAT, VERSION)
    assert list(written["tasks"]) == ["left", "right", "alone"]
    for task in written["tasks"].values():
        assert set(task) == {
            *("kind", "metric", "higher_is_better", "rows", "groups", "teacher", "student", "delta", "ci95"),
            *(
                "agreement",
                "in_points",
                "mcnemar",
                "ece",
                "classes",
                "unscored",
                "unmeasured",
                "disagreements",
            ),
            *("margin", "verdict", "rows_to_decide", "against", "slices", "resampled", "drawn_from"),
        }
    assert set(written["cost"]) == {"student", "teachers", "each", "heads", "nodes", "machine"}
    for network in ("student", "teachers"):
        assert set(written["cost"][network]) == {
            *("parameters", "flops", "bytes", "latency_ms", "batch", "rows_per_second", "peak_memory")
        }
    assert written["tasks"]["left"]["ci95"] == [pytest.approx(0.15), 0.65]
    assert written["tasks"]["left"]["verdict"] == "non-inferior"
    assert written["tasks"]["alone"]["verdict"] is None
    margin = {"left": 1.0, "right": 1.0, "alone": 1.0}
    assert written["acceptance"] == {"rule": "interval", "margin": margin, "gate": False, "slices": {}}
    assert written["tasks"]["alone"]["teacher"] is None
    assert (written["accepted"], written["steps"], written["seconds"]) == (True, 400, 61.5)


@pytest.mark.parametrize("made", [toy_evaluation, full_evaluation])
def test_what_is_written_is_read_as_the_same(tmp_path: Path, made: Any) -> None:
    path, evaluation = tmp_path / "results.json", made()
    evaluation.write(path)
    assert Evaluation.read(path) == evaluation
    assert Evaluation.model_validate_json(path.read_text()) == evaluation
    again = path.read_text()
    Evaluation.read(path).write(path)
    assert path.read_text() == again


def test_models_that_are_compared_are_named_in_their_file_and_in_no_other() -> None:
    assert full_evaluation().model_dump()["against"] == "runs/b"
    assert "student" not in toy_evaluation().model_dump()


def test_a_head_s_shares_are_of_its_student() -> None:
    assert HeadCost.of(12_458, 391_000, STUDENT) == HeadCost(12_458, 391_000, 0.1, 0.1)
    assert HeadCost.of(1, 1, replace(STUDENT, parameters=None, flops=None)) == HeadCost(1, 1, None, None)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_no_number_that_is_not_finite_is_taken_written_or_read(tmp_path: Path, number: float) -> None:
    with pytest.raises(ValidationError, match="student"):
        task_result(student=number)
    with pytest.raises(ValidationError, match="seconds"):
        toy_evaluation().changed(seconds=number)
    path = tmp_path / "results.json"
    slipped_in = toy_evaluation().model_copy(update={"seconds": number})
    with pytest.raises(ValueError, match="JSON compliant"):
        slipped_in.write(path)
    assert not path.exists()
    toy_evaluation().write(path)
    path.write_text(
        path.read_text().replace("61.5", str(number).replace("nan", "NaN").replace("inf", "Infinity"))
    )
    with pytest.raises(UserError, match="seconds"):
        Evaluation.read(path)


def _without_format(content: dict[str, Any]) -> object:
    return {key: value for key, value in content.items() if key not in ("format", "version")}


@pytest.mark.parametrize(
    ("spoil", "finding"),
    [
        (_without_format, "no format"),
        (lambda content: content | {"version": 99}, "version 99"),
        (lambda content: content | {"version": True}, "version True"),
        (lambda content: content | {"version": 0}, "version 0"),
        (lambda content: content | {"format": "another"}, "another"),
        (lambda content: [content], "no format"),
        (lambda content: content | {"split": 3}, "split"),
    ],
)
def test_an_older_or_foreign_file_is_refused_with_the_command_that_measures_again(
    tmp_path: Path, spoil: Any, finding: str
) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(spoil(toy_evaluation().model_dump(mode="json"))))
    with pytest.raises(UserError, match=finding) as refused:
        Evaluation.read(path)
    message = str(refused.value)
    assert str(path) in message
    assert f"distill-mtl evaluate {tmp_path} --write" in message
    assert "\n" not in message


def test_a_file_of_version_1_is_read_and_what_it_does_not_say_is_not_known(tmp_path: Path) -> None:
    path, content = tmp_path / "results.json", full_evaluation().model_dump(mode="json")
    for gone in ("distill_mtl", "hashed"):
        del content[gone]
    del content["acceptance"]["gate"]
    for task in content["tasks"].values():
        del task["unscored"], task["unmeasured"]
    path.write_text(json.dumps(content | {"version": 1}))
    read = Evaluation.read(path)
    assert read == full_evaluation().changed(distill_mtl=None, hashed=())
    read.write(path)
    assert Evaluation.read(path) == read


@pytest.mark.parametrize(
    ("writer", "program"), [("9.1", "distill_mtl 9.1"), ("<b>", "later version"), ("9" * 99, "later version")]
)
def test_a_later_file_is_refused_with_the_program_that_reads_it(
    tmp_path: Path, writer: str, program: str
) -> None:
    path = tmp_path / "results.json"
    content = toy_evaluation().model_dump(mode="json") | {
        "version": VERSION + 1,
        "distill_mtl": writer,
        "new": 1,
    }
    path.write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=f"version {VERSION + 1}, written by .*{program}.*reads versions 1 to"
    ) as refused:
        Evaluation.read(path)
    assert "\n" not in str(refused.value)


def test_the_version_is_raised_with_every_key_that_is_added() -> None:
    """Where this fails: give the key a default, raise VERSION if it was released, and note the number of keys here."""
    keys = [key for part in _parts(Evaluation.model_json_schema()) for key in part]
    assert {VERSION: len(keys)} == {2: 106}


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    """The `properties` of every part of a schema."""
    if isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict):
            yield schema["properties"]
        for value in schema.values():
            yield from _parts(value)


def test_half_a_file_is_refused_in_the_same_way(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("{")
    with pytest.raises(UserError, match="--write"):
        Evaluation.read(path)


def test_a_verdict_in_a_file_that_its_numbers_do_not_give_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    toy_evaluation().write(path)
    path.write_text(path.read_text().replace('"verdict": "non-inferior"', '"verdict": "inferior"'))
    assert Evaluation.read(path).accepted


def test_one_inferior_task_is_enough_to_refuse() -> None:
    assert toy_evaluation().accepted
    strict = with_margins(toy_evaluation(), right=0.4)
    assert not strict.accepted
    assert {task: result.verdict for task, result in strict.tasks.items()} == {
        "left": "non-inferior",
        "right": "inferior",
        "alone": None,
    }
    assert list(strict.compared) == ["left", "right"]


def test_one_undecided_task_is_not_accepted_either() -> None:
    strict = with_margins(toy_evaluation(), right=0.5)
    assert not strict.accepted
    assert strict.tasks["right"].verdict == "undecided"
    # 1250 * ((1 + 1.2816 / 1.96) * 0.25 / 0.2)^2 in all
    assert strict.tasks["right"].rows_to_decide == pytest.approx(4093, abs=2)
    assert with_rule(with_margins(toy_evaluation(), right=0.7), "point").accepted


def test_acceptance_is_one_number_or_one_per_task() -> None:
    tasks = {"left": None, "right": None}
    assert margins_by_task(2, tasks) == {"left": 2.0, "right": 2.0}
    assert margins_by_task({"right": 0.5}, tasks) == {"left": 1.0, "right": 0.5}
