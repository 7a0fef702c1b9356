"""Runs whose numbers or files break: the cause is named, nothing broken is kept as good, and the run goes back."""

import json
import os
import pickle
import re
import shutil
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_world
from rich.console import Console
from safetensors.torch import load_file
from toys import classification, toy_student

from distill_mtl import distill, load_recipe
from distill_mtl.errors import Stopped, UserError
from distill_mtl.files import atomic_folder
from distill_mtl.jobs.export import export_student
from distill_mtl.jobs.predict import predict
from distill_mtl.students.student_folder import save_student
from distill_mtl.targets.live import LiveTeachers
from distill_mtl.training import checkpoint
from distill_mtl.training.checkpoint import Session, list_checkpoints

QUIET = Console(quiet=True)
SHORT = ("training.steps=8", "training.checkpoint_every=2", "training.log_every=4", "training.keep=9")


@pytest.fixture(scope="module", autouse=True)
def _short_runs(short_runs: None) -> None: ...


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_world.build(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def finished(recipe: Path) -> Path:
    out = recipe.parent / "finished"
    run(recipe, out)
    return out


def run(recipe: Path, out: Path, *changes: str, console: Console = QUIET, **options: bool) -> None:
    distill(load_recipe(recipe, [*SHORT, *changes]), out=out, console=console, **options)


def steps(out: Path) -> list[int]:
    """Of the checkpoints; all of them hold finite numbers."""
    found = []
    for path in list_checkpoints(out / "checkpoints"):
        step, state = checkpoint.load_checkpoint(path)
        assert all(value.isfinite().all() for value in state["objective"].values())
        found.append(step)
    return found


def after(step: int, act: Callable[[Session], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do something when a run has done this many steps."""
    real = Session.after_step

    def acting(session: Session) -> None:
        real(session)
        if session.step == step:
            act(session)

    monkeypatch.setattr(Session, "after_step", acting)


def spoil(session: Session) -> None:
    with torch.no_grad():
        next(session.trainer.objective.parameters()).fill_(torch.nan)


def test_a_signal_between_logged_steps_writes_no_checkpoint_of_nan(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil_and_stop(session: Session) -> None:
        spoil(session)
        os.kill(os.getpid(), signal.SIGTERM)

    after(5, spoil_and_stop, monkeypatch)
    with pytest.raises(UserError, match=r"not finite after step 5.*step_00000004 is from before") as failed:
        run(recipe, tmp_path / "run")
    assert not isinstance(failed.value, Stopped)
    assert steps(tmp_path / "run") == [2, 4]


@pytest.mark.parametrize("changes", [(), ("training.ema=0.9",)])
def test_weights_that_break_are_not_kept_and_no_student_is_written(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: tuple[str, ...]
) -> None:
    after(8, spoil, monkeypatch)
    with pytest.raises(UserError, match=r"not finite after step 8"):
        run(recipe, tmp_path / "run", *changes)
    assert steps(tmp_path / "run") == [2, 4, 6]
    assert not (tmp_path / "run" / "student").exists()


def test_a_broken_answer_of_a_teacher_is_traced_to_teacher_and_row(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, broken = LiveTeachers._answers, set[str]()
    armed = []

    def answers(self: LiveTeachers, batch: object, rows: object) -> object:
        found = real(self, batch, rows)  # type: ignore[arg-type]
        if armed and not broken and "hue" in found:
            broken.add(batch.keys[int(rows["hue"][0])])  # type: ignore[attr-defined, index]
        for place, row in enumerate(rows.get("hue", [])):  # type: ignore[attr-defined]
            if batch.keys[int(row)] in broken:  # type: ignore[attr-defined]
                found["hue"].logits[place] = torch.nan
        return found

    monkeypatch.setattr(LiveTeachers, "_answers", answers)
    after(2, lambda session: armed.append(True), monkeypatch)
    with pytest.raises(UserError, match=r"loss of .* is nan") as failed:
        run(recipe, tmp_path / "run")
    assert re.search(rf"Step 3 .*teacher of hue .*not finite \({broken.pop()}.*--resume", str(failed.value))
    assert steps(tmp_path / "run") == [2]


def test_a_broken_label_is_traced_to_its_row(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kind says what a label may hold: its loss is asked."""
    from distill_mtl.tasks.classification import Classification

    real, armed = Classification.supervised_loss, []

    def loss(self: Classification, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        found = real(self, logits, labels)
        return found.masked_fill(labels == 1, torch.nan) if armed else found

    monkeypatch.setattr(Classification, "supervised_loss", loss)
    after(3, lambda session: armed.append(True), monkeypatch)
    with pytest.raises(UserError, match=r"Step 4 began it: the label of hue gives .* \(hue/hue-train/"):
        run(recipe, tmp_path / "run")
    assert steps(tmp_path / "run") == [2]


def test_a_rate_that_is_too_high_is_named_where_rows_are_sound(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"diverged|a gradient was not") as failed:
        run(recipe, tmp_path / "run", "optimizer.lr=1000", "training.clip=null")
    assert "optimizer.lr 1000" in str(failed.value)
    assert "teacher of" not in str(failed.value)


def cut(state: Path) -> None:
    state.write_bytes(state.read_bytes()[:1000])


def empty(state: Path) -> None:
    state.write_bytes(b"")


def missing(state: Path) -> None:
    state.unlink()


def flip(state: Path) -> None:
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)


def foreign(state: Path) -> None:
    torch.save([], state)
    described = {"step": 8, "sha256": checkpoint._digest(state)}
    (state.parent / "checkpoint.json").write_text(json.dumps(described))


def foreign_keys(state: Path) -> None:
    content = torch.load(state, weights_only=True)
    content["objective"] = {"other": torch.zeros(1)}
    torch.save(content, state)
    described = {"step": 8, "sha256": checkpoint._digest(state)}
    (state.parent / "checkpoint.json").write_text(json.dumps(described))


def described_by(text: str) -> Callable[[Path], None]:
    def describe(state: Path) -> None:
        (state.parent / "checkpoint.json").write_text(text)

    return describe


DAMAGE = {
    "cut": cut,
    "empty": empty,
    "missing": missing,
    "flipped bit": flip,
    "a list": foreign,
    "foreign keys": foreign_keys,
    "no description": described_by(""),
    "a list described": described_by("[]"),
    "nested": described_by("[" * 5000),
    "another step": described_by('{"step": 7, "sha256": ""}'),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_resuming_goes_back_to_the_newest_whole_checkpoint_and_says_so(
    recipe: Path, finished: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / "results.json").unlink()
    damage(out / "checkpoints" / "step_00000008" / "state.pt")
    with (tmp_path / "said").open("w") as said:
        run(recipe, out, resume=True, console=Console(file=said, width=1000))
    text = (tmp_path / "said").read_text()
    assert "step_00000008" in text
    assert "resuming after step 6 of 8" in text
    assert steps(out) == [2, 4, 6, 8]
    ours, theirs = (load_file(each / "student" / "model.safetensors") for each in (out, finished))
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())


def pickled_code(state: Path) -> None:
    state.write_bytes(pickle.dumps(print))


def archived_code(state: Path) -> None:
    torch.save({"objective": Console}, state)


def bomb(state: Path) -> None:
    with zipfile.ZipFile(state, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(100_000_000))


@pytest.mark.parametrize("damage", [pickled_code, archived_code, bomb, os.mkfifo])
def test_a_state_of_others_is_refused_even_where_its_digest_is_right(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    state = tmp_path / "step_00000008" / "state.pt"
    state.parent.mkdir()
    damage(state)
    digest = "" if damage is os.mkfifo else checkpoint._digest(state)
    (state.parent / "checkpoint.json").write_text(json.dumps({"step": 8, "sha256": digest}))
    with pytest.raises(checkpoint.CheckpointError, match=r"state\.pt (is not what|cannot be read)"):
        checkpoint.load_checkpoint(state.parent)


def test_a_fifo_in_the_place_of_a_checkpoints_description_is_not_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "step_00000008"
    folder.mkdir()
    os.mkfifo(folder / "checkpoint.json")
    with pytest.raises(checkpoint.CheckpointError, match="FIFO"):
        checkpoint.load_checkpoint(folder)


def test_without_a_whole_checkpoint_the_run_is_not_begun_again_in_silence(
    recipe: Path, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    for path in list_checkpoints(out / "checkpoints"):
        flip(path / "state.pt")
    with pytest.raises(UserError, match=r"no checkpoint is whole.*--overwrite"):
        run(recipe, out, resume=True)


@pytest.mark.parametrize("accumulate", [1, 12])
def test_the_check_tries_its_batch_in_training_mode(recipe: Path, tmp_path: Path, accumulate: int) -> None:
    """One row at a time, on a map of one pixel: BatchNorm can train on no such batch."""
    from distill_mtl.jobs.check import check

    changes = (
        'student={model: "toy:net", init: random, args: {norm: true}, input_size: 4}',
        *(("training.batch_size=1",) if accumulate == 1 else (f"training.accumulate={accumulate}",)),
    )
    with pytest.raises(UserError, match=r"training\.batch_size: .*BatchNorm"):
        check(load_recipe(recipe, [*changes]), console=QUIET)


def test_a_full_disk_in_training_says_what_is_whole_and_it_goes_on_from_there(
    recipe: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = checkpoint.save_checkpoint

    def save(folder: Path, step: int, *state: object, **options: int) -> Path:
        if step == 6:
            with atomic_folder(folder / "step_00000006"):
                raise OSError(28, os.strerror(28))
        return real(folder, step, *state, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoint, "save_checkpoint", save)
    with pytest.raises(UserError, match=r"step_00000006 .*no space.*step_00000004 is whole.*--resume"):
        run(recipe, tmp_path / "run")
    monkeypatch.undo()
    run(recipe, tmp_path / "run", resume=True)
    ours, theirs = (
        load_file(each / "student" / "model.safetensors") for each in (tmp_path / "run", finished)
    )
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())


def test_a_place_that_cannot_be_written_is_found_before_the_teachers_are_measured(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(
        "distill_mtl.jobs.distill.build", lambda recipe: pytest.fail("the teachers were loaded")
    )
    for out in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/run")):
        with pytest.raises(UserError, match="--out"):
            run(recipe, out)
    monkeypatch.undo()
    monkeypatch.setattr("distill_mtl.files.free_bytes", lambda path: (path.parent, 1000))
    monkeypatch.setattr(
        "distill_mtl.jobs.distill.run_check", lambda *given: pytest.fail("they were measured")
    )
    with pytest.raises(UserError, match=r"--out .*1 kB free"):
        run(recipe, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_network_that_answers_nan_is_neither_believed_nor_exported(tmp_path: Path) -> None:
    student = toy_student({"hue": classification()})
    with torch.no_grad():
        student.trunk.model.first[0].weight[0] = torch.nan
    save_student(student, tmp_path / "student")
    toy_world.write_shard(tmp_path / "rows.tar", np.random.default_rng(0), None)
    (tmp_path / "a.png").write_bytes(toy_world.png(np.zeros((8, 8, 3), np.uint8)))
    with pytest.raises(UserError, match=r"the network answers .*a\.png with NaN"):
        predict(str(tmp_path / "student"), [str(tmp_path / "a.png")], json=tmp_path / "answers.jsonl")
    with pytest.raises(UserError, match="the student answers .* with NaN"):
        export_student(tmp_path / "student", "torchscript", data=[str(tmp_path / "rows.tar")], rows=4)
    assert not list(tmp_path.rglob("*.jsonl"))
    assert not list(tmp_path.rglob("*.ts"))
