"""`training.trackers`: what metrics.jsonl holds, seen by TensorBoard as TensorBoard itself reads it."""

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import accelerate.tracking
import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distill_mtl import distill, load_recipe
from distill_mtl.errors import RecipeError, Stopped, UserError
from distill_mtl.training import log as trackers
from distill_mtl.training.step import Trainer

QUIET = Console(quiet=True)
ON = "training.trackers=[tensorboard]"


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the trackers that were ended."""
    ended: list[str] = []
    finish = accelerate.tracking.TensorBoardTracker.finish

    def noted(tracker: Any) -> None:
        ended.append(tracker.name)
        finish(tracker)

    monkeypatch.setattr(accelerate.tracking.TensorBoardTracker, "finish", noted)
    return ended


def curves(out: Path) -> dict[str, list[tuple[int, float]]]:
    """Key -> every step and value in the event files, none left out as TensorBoard's own view would."""
    events = EventAccumulator(str(out / "tensorboard"), purge_orphaned_data=False)
    events.Reload()
    return {
        key: [(event.step, event.value) for event in events.Scalars(key)] for key in events.Tags()["scalars"]
    }


def logged(out: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for text in (out / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        for key, value in trackers.flat(line):
            if key != "step":
                found.setdefault(key, []).append((line["step"], pytest.approx(value, rel=1e-5)))
    return found


def test_tensorboard_shows_every_number_of_metrics_jsonl(
    recipe: Path, tmp_path: Path, finished: list[str]
) -> None:
    out = tmp_path / "run"
    distill(load_recipe(recipe, [ON]), out=out, console=QUIET)
    shown = curves(out)
    assert {"tasks/hue/total", "tasks/shape/hint", "cosines/hue/shape", "lr", "norm"} <= set(shown)
    assert shown == logged(out)
    assert [step for step, _ in shown["lr"]] == [2, 4, 6]
    assert finished == ["tensorboard"]


def test_the_resolved_recipe_is_logged_as_hyperparameters(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    distill(load_recipe(recipe, [ON, "training.steps=1"]), out=out, console=QUIET)
    (written,) = (out / "tensorboard").rglob("hparams.yml")
    text = written.read_text()
    assert "tasks/hue/temperature: 4.0" in text
    assert "training/steps: 1" in text
    assert f"tasks/hue/teacher/path: {recipe.parent}/teachers/hue" in text


def test_a_run_that_goes_on_shows_no_step_twice(
    recipe: Path, tmp_path: Path, finished: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, step = tmp_path / "run", Trainer.step

    def falls(trainer: Trainer, number: int, batches: Any, **keys: Any) -> Any:
        if number == 4:
            raise OSError("the power is gone")
        return step(trainer, number, batches, **keys)

    monkeypatch.setattr(Trainer, "step", falls)
    with pytest.raises(OSError, match="the power"):
        distill(load_recipe(recipe, [ON]), out=out, console=QUIET)
    assert [step for step, _ in curves(out)["lr"]] == [2, 4]  # and the last checkpoint is that of step 3
    assert finished == ["tensorboard"]
    monkeypatch.setattr(Trainer, "step", step)
    distill(load_recipe(recipe, [ON]), out=out, resume=True, console=QUIET)
    assert curves(out) == logged(out)
    assert [step for step, _ in curves(out)["lr"]] == [2, 4, 6]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_ends_its_trackers_with_every_logged_step(
    recipe: Path,
    tmp_path: Path,
    finished: list[str],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    out, step = tmp_path / "run", Trainer.step

    def signalled(trainer: Trainer, at: int, batches: Any, **keys: Any) -> Any:
        if at == 3:
            os.kill(os.getpid(), number)
        return step(trainer, at, batches, **keys)

    monkeypatch.setattr(Trainer, "step", signalled)
    with pytest.raises(Stopped):
        distill(load_recipe(recipe, [ON]), out=out, console=QUIET)
    assert finished == ["tensorboard"]
    assert curves(out) == logged(out)
    assert [at for at, _ in curves(out)["lr"]] == [2, 4]


def test_a_tracker_may_join_when_a_run_goes_on_and_shows_its_past(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    distill(recipe, out=out, console=QUIET)
    assert not (out / "tensorboard").exists()
    distill(load_recipe(recipe, [ON]), out=out, resume=True, console=QUIET)
    assert [step for step, _ in curves(out)["lr"]] == [2, 4, 6]
    distill(recipe, out=out, overwrite=True, console=QUIET)
    assert not (out / "tensorboard").exists()


def test_a_tracker_that_is_not_installed_is_refused_with_its_package(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [])
    with pytest.raises(
        RecipeError, match=r"training\.trackers: tensorboard .*not installed.*pip install tensorb"
    ):
        distill(load_recipe(recipe, [ON]), out=tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def test_an_unknown_tracker_is_refused_with_its_line(recipe: Path) -> None:
    with pytest.raises(RecipeError, match=r"training\.trackers\.0:\n.*\"tensorbord\".* 'tensorb"):
        load_recipe(recipe, ["training.trackers=[tensorbord]"])


def test_a_tracker_that_cannot_start_stops_the_run_before_training(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(tracker: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(accelerate.tracking.TensorBoardTracker, "start", fails)
    with pytest.raises(UserError, match=r"training\.trackers: tensorboard .*started: no route to host"):
        distill(load_recipe(recipe, [ON]), out=tmp_path / "run", console=QUIET)


def test_a_tracker_that_fails_along_the_way_is_left_out_and_the_run_goes_on(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(tracker: Any, values: Any, step: int) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(accelerate.tracking.TensorBoardTracker, "log", fails)
    out = tmp_path / "run"
    distill(load_recipe(recipe, [ON]), out=out, console=QUIET)
    (said,) = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert re.search(r"tensorboard failed.* left out.*no route to host.*metrics\.jsonl", said)
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 3
