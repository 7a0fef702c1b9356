"""`distill-mtl evaluate` as a deployment calls it: processes, exit status, files."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import toy_world
import toys
from rich.console import Console

from distill_mtl import distill

HERE = Path(__file__).parent
TWO = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    distill(toy_world.build(folder), out=folder / "run", console=Console(quiet=True))
    return folder / "run"


def test_the_status_is_0_for_an_accepted_student_and_3_for_one_that_is_not(
    finished: Path, tmp_path: Path
) -> None:
    """A student of six steps loses much; the toy recipe allows 100 points, the command line no loss at all."""
    accepted = _evaluate(finished, "--json", tmp_path / "accepted.json")
    assert accepted.returncode == 0, accepted.stdout + accepted.stderr
    refused = _evaluate(finished, "--acceptance", "hue=-100", "--json", tmp_path / "refused.json")
    assert refused.returncode == 3, refused.stdout + refused.stderr
    assert "not accepted" in refused.stdout
    results = [json.loads((tmp_path / name).read_text()) for name in ("accepted.json", "refused.json")]
    assert [found["accepted"] for found in results] == [True, False]
    assert _scores(results[0]) == _scores(results[1])


def test_two_processes_find_what_one_finds(finished: Path, tmp_path: Path) -> None:
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    for file, launcher in zip(files, ((), TWO), strict=True):
        done = _evaluate(finished, "--json", file, launcher=launcher)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("Student against teachers") == 1
    one, two = (json.loads(file.read_text()) for file in files)
    assert _scores(one) == _scores(two)
    assert one["cross_domain"] == two["cross_domain"]
    assert one["cross_domain"]["hue"]["shape"]["rows"] == toy_world.ROWS


def test_any_two_models_and_the_status_of_the_pair(finished: Path, tmp_path: Path) -> None:
    world, out = finished.parent, tmp_path / "pair.json"
    data = ("--data", f"hue={world / 'hue-test.tar'}", f"shape={world / 'shape-test.tar'}")
    itself = _evaluate(
        "--student", finished, "--against", finished / "student", *data, "--acceptance", 20, "--json", out
    )
    assert itself.returncode == 0, itself.stdout + itself.stderr
    assert f"{finished} (student) against {finished / 'student'} (teacher), all rows" in itself.stdout
    pair, run = (json.loads(path.read_text()) for path in (out, finished / "results.json"))
    for task, result in pair["tasks"].items():
        assert (result["delta"], result["agreement"], result["rows"]) == (0, 1, toy_world.ROWS)
        assert result["student"] == pytest.approx(run["tasks"][task]["student"])
    assert pair["cost"]["student"]["parameters"] == run["cost"]["student"]["parameters"]
    assert pair["cost"]["teachers"]["parameters"] == pair["cost"]["student"]["parameters"]
    assert (pair["student"], pair["against"]) == (str(finished), str(finished / "student"))

    better = toys.toy_teacher_folder(tmp_path / "other", "hue", toys.classification(3), seed=5)
    several = _evaluate(
        *("--student", finished, "--against", better, world / "teachers" / "hue", "--task", "hue"),
        *("--data", world / "hue-test.tar", "--acceptance", "-100", "--json", out),
    )
    assert several.returncode == 3, several.stdout + several.stderr
    pairs = json.loads(out.read_text())
    assert [pair["against"] for pair in pairs] == [str(better), str(world / "teachers" / "hue")]
    assert pairs[1]["tasks"]["hue"]["teacher"] == pytest.approx(run["tasks"]["hue"]["teacher"])
    assert pairs[1]["tasks"]["hue"]["agreement"] == pytest.approx(run["tasks"]["hue"]["agreement"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "neither a run folder nor --student and --against and --data"),
        (["--student", "RUN", "--against", "RUN"], "nor --data"),
        (["RUN", "--task", "hue"], "--task compares models on data that you name"),
        (
            ["--student", "RUN", "--against", "RUN", "--data", "HUE", "--write"],
            "--write belongs to a run",
        ),
        (
            ["--student", "RUN", "--against", "RUN", "--data", "HUE"],
            "RUN answers hue, shape. Say whose labels these are, with --task hue",
        ),
        (
            ["--student", "RUN", "--against", "RUN", "--data", "heu=HUE"],
            "RUN has no task 'heu'. Did you mean 'hue'?",
        ),
        (
            ["--student", "RUN", "--against", "RUN", "--data", "hue=HUE", "HUE"],
            "Name the task of each",
        ),
        (
            ["--student", "RUN", "--against", "missing.onnx", "--data", "hue=HUE"],
            "missing.onnx does not exist",
        ),
        (["RUN", "--acceptance", "little"], "--acceptance little: expected a number, or TASK=NUMBER"),
        (
            ["RUN", "--acceptance", "1", "hue=2"],
            "--acceptance 1: expected one number, or TASK=NUMBER for each",
        ),
        (["RUN", "--baseline", "labelsonly"], "labelsonly"),
    ],
)
def test_mistakes_are_told_in_a_line_and_status_2(
    finished: Path, capsys: pytest.CaptureFixture[str], arguments: Sequence[str], message: str
) -> None:
    from distill_mtl.cli import main

    places = {"RUN": str(finished), "HUE": str(finished.parent / "hue-test.tar")}

    def real(text: str) -> str:
        for short, place in places.items():
            text = text.replace(short, place)
        return text

    with pytest.raises(SystemExit) as exit:
        main(["evaluate", *map(real, arguments)])
    assert exit.value.code == 2
    told = capsys.readouterr().err
    assert real(message) in told
    assert "Traceback" not in told


def _evaluate(*arguments: object, launcher: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *launcher, str(HERE / "evaluate_toy.py"), *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "COLUMNS": "400"},
        capture_output=True,
        text=True,
        check=False,
    )


def _scores(results: dict[str, Any]) -> dict[str, Any]:
    keys = ("teacher", "student", "delta", "ci95", "agreement")
    return {task: {key: found[key] for key in keys} for task, found in results["tasks"].items()}
