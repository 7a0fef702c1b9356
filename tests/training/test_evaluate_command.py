"""`distill-mtl evaluate` as a deployment calls it: processes, exit status, files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import forked
import pytest
import toy_world
import toys
from rich.console import Console

from distill_mtl import UserError, evaluate
from distill_mtl.cli import main


@pytest.fixture(scope="module")
def finished(toy_run: toy_world.Run) -> Path:
    return toy_run.out


def test_the_status_is_0_for_an_accepted_student_and_3_for_one_that_is_not(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A student of six steps loses much; the toy recipe allows 100 points, the command line no loss at all."""
    assert _status(finished, "--json", tmp_path / "accepted.json") == 0
    assert "not accepted" not in capsys.readouterr().out
    assert _status(finished, "--acceptance", "hue=0", "--json", tmp_path / "refused.json") == 3
    assert "not accepted" in capsys.readouterr().out
    results = [json.loads((tmp_path / name).read_text()) for name in ("accepted.json", "refused.json")]
    assert [found["accepted"] for found in results] == [True, False]
    assert _scores(results[0]) == _scores(results[1])


def test_two_processes_find_what_one_finds(finished: Path, tmp_path: Path) -> None:
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    assert _status(finished, "--json", files[0]) == 0
    both = forked.run_two("evaluate", finished, "--json", files[1])
    assert [ended.status for ended in both] == [0, 0], both
    assert sum(ended.text.count("Student against teachers") for ended in both) == 1
    one, two = (json.loads(file.read_text()) for file in files)
    assert _scores(one) == _scores(two)
    assert one["cross_domain"] == two["cross_domain"]
    assert one["cross_domain"]["hue"]["shape"]["rows"] == toy_world.ROWS


def test_any_two_models_and_the_status_of_the_pair(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    world, out = finished.parent, tmp_path / "pair.json"
    data = ("--data", f"hue={world / 'hue-test.tar'}", f"shape={world / 'shape-test.tar'}")
    pair = ("--student", finished, "--against", finished / "student")
    assert _status(*pair, *data, "--acceptance", 20, "--json", out) == 0
    title = f"{finished} (student) against {finished / 'student'} (teacher), all rows"
    assert title in capsys.readouterr().out
    pair, run = (json.loads(path.read_text()) for path in (out, finished / "results.json"))
    for task, result in pair["tasks"].items():
        assert (result["delta"], result["agreement"], result["rows"]) == (0, 1, toy_world.ROWS)
        assert result["student"] == pytest.approx(run["tasks"][task]["student"])
    assert pair["cost"]["student"]["parameters"] == run["cost"]["student"]["parameters"]
    assert pair["cost"]["teachers"]["parameters"] == pair["cost"]["student"]["parameters"]
    assert (pair["student"], pair["against"]) == (str(finished), str(finished / "student"))

    better = toys.toy_teacher_folder(tmp_path / "other", "hue", toys.classification(3), seed=5)
    several = _status(
        *("--student", finished, "--against", better, world / "teachers" / "hue", "--task", "hue"),
        *("--data", world / "hue-test.tar", "--acceptance", "0", "--json", out),
    )
    assert several == 3
    pairs = json.loads(out.read_text())
    assert [pair["against"] for pair in pairs] == [str(better), str(world / "teachers" / "hue")]
    assert pairs[1]["tasks"]["hue"]["teacher"] == pytest.approx(run["tasks"]["hue"]["teacher"])
    assert pairs[1]["tasks"]["hue"]["agreement"] == pytest.approx(run["tasks"]["hue"]["agreement"])


@pytest.mark.parametrize(
    ("said", "rule", "margins"),
    [
        (("point",), "point", {"hue": 100, "shape": 100}),
        (("interval", "2"), "interval", {"hue": 2, "shape": 2}),
        (("point", "hue=2"), "point", {"hue": 2, "shape": 100}),
    ],
)
def test_the_command_line_says_the_rule_as_a_recipe_does(
    finished: Path, tmp_path: Path, said: Sequence[str], rule: str, margins: dict[str, float]
) -> None:
    _status(finished, "--acceptance", *said, "--json", tmp_path / "found.json")
    assert json.loads((tmp_path / "found.json").read_text())["acceptance"] == {
        "gate": False,
        "rule": rule,
        "margin": margins,
        "slices": {},
    }


def test_a_baseline_that_is_not_there_is_told_before_anything_is_measured(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def too_late(*_: object, **__: object) -> None:
        raise AssertionError("measured")

    for work in ("compare_with_progress", "train_baselines"):
        monkeypatch.setattr(f"distill_mtl.jobs.evaluate.{work}", too_late)
    assert _status(finished, "--baseline", "labels_only", "--baseline", "nonsense") == 2
    assert "--baseline nonsense: there is no such run, folder or file" in capsys.readouterr().err


PAIR = ["--student", "RUN", "--against", "RUN"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], ["--student", "--against", "--data"]),
        (PAIR, ["--data"]),
        (["RUN", "--task", "hue"], ["--task", "RUN"]),
        ([*PAIR, "--data", "HUE", "--write"], ["--write"]),
        ([*PAIR, "--data", "HUE"], ["--data", "hue, shape", "--task hue"]),
        ([*PAIR, "--data", "heu=HUE"], ["RUN/student", "'heu'", "Did you mean 'hue'?"]),
        ([*PAIR, "--data", "hue=HUE", "HUE"], ["--data HUE", "(hue=...)"]),
        (
            ["--student", "RUN", "--against", "missing.onnx", "--data", "hue=HUE"],
            ["missing.onnx does not exist"],
        ),
        (["RUN", "--json", "nowhere/found.json"], ["--json nowhere/found.json", "no folder nowhere"]),
        (["RUN", "--acceptance", "little"], ["--acceptance little", "TASK=NUMBER"]),
        (["RUN", "--acceptance", "hue=nan"], ["--acceptance hue=nan", "TASK=NUMBER"]),
        (["RUN", "--acceptance", "1", "hue=2"], ["--acceptance 1", "TASK=NUMBER"]),
        (["RUN", "--acceptance", "-1"], ["--acceptance -1", "0 or more"]),
        (["RUN", "--acceptance", "hue=-3"], ["--acceptance hue=-3", "0 or more"]),
        (["RUN", "--acceptance", "point", "interval"], ["--acceptance", "one rule"]),
        (
            ["RUN", "--baseline", "labelsonly"],
            ["--baseline labelsonly", "labels_only, single_task", "Did you mean 'labels_only'?"],
        ),
        (["RUN", "--baseline", "RUNS"], ["--baseline RUNS", "Did you mean 'RUN'?"]),
        (["RUN/student"], ["RUN/student", "give RUN"]),
        (["RUNS"], ["no run folder RUNS", "Did you mean 'RUN'?"]),
        (["HUE"], ["HUE is a file", "distill-mtl evaluate --student HUE"]),
        (["RUN/checkpoints"], ["RUN/checkpoints", "recipe.resolved.yaml"]),
    ],
)
def test_mistakes_are_told_in_a_line_and_status_2(
    finished: Path, capsys: pytest.CaptureFixture[str], arguments: Sequence[str], told: Sequence[str]
) -> None:
    places = {"RUN": str(finished), "HUE": str(finished.parent / "hue-test.tar")}

    def real(text: str) -> str:
        for short, place in places.items():
            text = text.replace(short, place)
        return text

    assert _status(*map(real, arguments)) == 2
    said = capsys.readouterr().err
    assert [part for part in map(real, told) if part not in said] == [], said
    assert "Traceback" not in said


def _status(*arguments: object) -> object:
    """Of the command in this process, which has loaded everything."""
    with pytest.raises(SystemExit) as exit:
        main(["evaluate", *map(str, arguments)])
    return exit.value.code


def _scores(results: dict[str, Any]) -> dict[str, Any]:
    keys = ("teacher", "student", "delta", "ci95", "agreement")
    return {task: {key: found[key] for key in keys} for task, found in results["tasks"].items()}


def test_slices_are_named_on_the_command_line(toy_run: toy_world.Run) -> None:
    rules = ["all=source=hue", "half=source=hue", "half=key~[02468]$"]
    found = evaluate(toy_run.out, slices=rules, console=Console(quiet=True))
    everything, half = sorted(found.tasks["hue"].slices, key=lambda one: one.name)
    assert everything.delta == pytest.approx(found.tasks["hue"].delta)
    assert (everything.rows, half.rows) == (toy_world.ROWS, toy_world.ROWS // 2)
    assert found.tasks["shape"].slices == ()
    assert toy_run.evaluation.tasks["hue"].slices == ()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("night", "--slices night: expected NAME=RULE"),
        ("night=dark", "--slices night: found the rule 'dark', expected FIELD"),
        ("night=ckey~a", "no row has a field or member 'ckey'. Did you mean 'key'?"),
    ],
)
def test_a_slice_that_cannot_be_made_is_refused(toy_run: toy_world.Run, given: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        evaluate(toy_run.out, slices=[given], console=Console(quiet=True))
    assert said in str(refused.value)
