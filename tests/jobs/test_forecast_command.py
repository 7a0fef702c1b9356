"""`distill-mtl forecast`: what it prints and keeps, and what a finished run adds."""

import io
import json
from pathlib import Path

import pytest
import toy_world
from rich.console import Console

from distill_mtl import UserError, distill, forecast
from distill_mtl.cli import main
from distill_mtl.evaluation.forecast.table import FILE, ForecastTable
from distill_mtl.evaluation.result import Evaluation

STEPS = ["training.steps=100"]
QUIET = Console(quiet=True)
pytestmark = pytest.mark.usefixtures("short_runs")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_world.build(tmp_path_factory.mktemp("world"))


def said(recipe: Path, *overrides: str, **options: object) -> str:
    console = Console(file=io.StringIO(), width=140)
    forecast(recipe, overrides, console=console, **options)  # type: ignore[arg-type]
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_a_forecast_is_noted_and_its_run_adds_what_came_out(recipe: Path, tmp_path: Path) -> None:
    runs, to = tmp_path / "runs", tmp_path / "forecast.json"
    shown = said(recipe, *STEPS, runs=runs, json=to)
    for part in (
        "affinity",
        "pairs of tasks",
        "student / teachers",
        "forecast after 100 steps",
        "has finished yet",
        f"distill.py {recipe} --set training.steps=100",
    ):
        assert part in shown
    assert "hue is not forecast" in shown  # its teacher is a tenth of the student
    kept = json.loads(to.read_text())
    assert kept["format"] == "distill_mtl forecast"
    assert kept["fork"] == 2
    assert set(kept["left_out"]) == {"hue"}
    (made,) = ForecastTable(runs).lines()
    assert list(made.tasks) == ["shape"]
    assert made.tasks["shape"].low <= made.tasks["shape"].delta <= made.tasks["shape"].high

    result = distill(recipe, STEPS, out=runs / "toy", console=QUIET)
    _, done = ForecastTable(runs).lines()
    assert done.run == str(runs / "toy")
    assert done.recipe == made.recipe
    assert done.tasks["shape"].outcome == result.tasks["shape"].delta
    assert done.tasks["shape"].delta == made.tasks["shape"].delta
    held = int(done.tasks["shape"].held)
    distill(
        recipe, STEPS, out=runs / "toy", overwrite=True, console=QUIET
    )  # of which the forecast might have known
    assert len(ForecastTable(runs).lines()) == 2
    assert f"So far here: {held} of 1 task" in said(recipe, *STEPS, runs=runs)
    assert ForecastTable(runs).lines()[-1].tasks == made.tasks, "as if nothing had come out of this merge yet"


def test_a_run_without_teachers_is_not_forecast(recipe: Path, tmp_path: Path) -> None:
    alone = forecast(recipe, [*STEPS, "training.teachers_on=none"], runs=tmp_path, console=QUIET)
    assert alone.tasks == {}
    assert "teachers_on is none" in alone.left_out["shape"]


def test_a_run_that_was_not_forecast_adds_nothing(recipe: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    forecast(recipe, STEPS, runs=runs, console=QUIET)
    distill(recipe, out=runs / "other", console=QUIET)  # of 6 steps
    assert len(ForecastTable(runs).lines()) == 1
    distill(recipe, out=tmp_path / "elsewhere" / "toy", console=QUIET)
    assert not (tmp_path / "elsewhere" / FILE).exists()


def test_a_damaged_table_stops_a_forecast_and_not_a_run(recipe: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / FILE).write_text('{"recipe": 1}\n')
    with pytest.raises(UserError, match=f"{FILE}, line 1"):
        forecast(recipe, STEPS, runs=runs, console=QUIET)
    assert isinstance(distill(recipe, out=runs / "toy", console=QUIET), Evaluation)


def test_what_cannot_be_asked_is_refused(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--rows 3"):
        forecast(recipe, rows=3, console=QUIET)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--runs"):
        forecast(recipe, runs=tmp_path / "file", console=QUIET)
    with pytest.raises(SystemExit) as ended:
        main(["forecast", str(tmp_path / "none.yaml")])
    assert ended.value.code == 2
