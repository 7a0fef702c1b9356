"""A run's own process is killed and stopped along its way, and ends where one that nobody disturbed does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import children
import pytest
import quickstart
import torch
from rich.console import Console

from distill_mtl import distill, load_recipe
from distill_mtl.errors import UserError

CHANGES = (
    "student={model: test_resnet, input_size: 16, init: random}",
    "training.steps=90",
    "training.checkpoint_every=6",
    "training.log_every=1",
    "training.ema=0.9",
    "training.select=best",
)
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def uninterrupted(recipe: Path) -> Path:
    out = recipe.parent / "uninterrupted"
    distill(load_recipe(recipe, CHANGES), out=out, auto_resume=True, console=QUIET)  # nothing was begun
    return out


def test_a_run_killed_then_stopped_by_sigterm_then_by_ctrl_c_ends_bit_identical(
    recipe: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    """Signals go to the whole process group, as a terminal, torchrun and Slurm send them: readers get them too."""
    out = tmp_path / "run"
    process = _start(recipe, out)
    _wait_for_a_checkpoint(out, process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (out / "results.json").exists()
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "half a li')
    for number in (signal.SIGTERM, signal.SIGINT):
        process = _start(recipe, out, "--resume", "--set=training.workers=1")
        _wait_for_a_checkpoint(out, process)
        os.killpg(process.pid, number)
        _, errors = process.communicate()
        assert process.returncode == 130, (number, errors)
        assert "--resume" in errors
    distill(load_recipe(recipe, CHANGES), out=out, auto_resume=True, console=QUIET)
    _identical(uninterrupted, out)


STUCK = """
import multiprocessing, sys, time
from pathlib import Path
import short_runs, toys
from distill_mtl import cli
from distill_mtl.data import reader

def stuck(payload):
    if multiprocessing.parent_process() is None:
        return read(payload)
    Path(sys.argv[1]).touch()
    time.sleep(600)

short_runs.shorten()
read, reader.read_image = reader.read_image, stuck
cli.distill_command(sys.argv[3:]) if sys.argv[2] == "distill" else cli.main(sys.argv[2:])
"""


@pytest.mark.parametrize("job", ["distill", "cache"])
def test_a_signal_that_arrives_while_readers_are_stuck_ends_a_run_and_a_cache(
    recipe: Path, uninterrupted: Path, tmp_path: Path, job: str
) -> None:
    waits, out = tmp_path / "waits", tmp_path / "run"
    first = ["distill", recipe, "--out", out] if job == "distill" else ["cache", "write", recipe]
    changes = [f"--set={change}" for change in (*CHANGES, "training.workers=2")]
    folders = os.pathsep.join([str(children.ROOT / "tests"), str(children.ROOT)])
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, str(waits), *map(str, first), *changes],
        cwd=children.ROOT,
        env={**children.environment(), "PYTHONPATH": folders},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=os.setpgrp,
    )
    while not waits.exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=120)  # the readers would sleep for 600 seconds
    assert process.returncode == 130, errors
    assert "stopped" in errors
    if job == "distill":
        distill(load_recipe(recipe, CHANGES), out=out, resume=True, console=QUIET)
        _identical(uninterrupted, out)


def test_resuming_with_another_recipe_is_refused_with_the_difference(
    recipe: Path, uninterrupted: Path
) -> None:
    with pytest.raises(UserError, match=r"(?s)-seed: 0.*\+seed: 1"):
        distill(load_recipe(recipe, [*CHANGES, "seed=1"]), out=uninterrupted, resume=True, console=QUIET)


def _start(recipe: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    changes = [f"--set={change}" for change in CHANGES]
    return subprocess.Popen(
        children.command("distill", recipe, "--out", out, *changes, *options),
        cwd=children.ROOT,
        env=children.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=os.setpgrp,
    )


def _wait_for_a_checkpoint(out: Path, process: subprocess.Popen[str]) -> None:
    """One that was not there before."""
    before = _checkpoints(out)
    while not _checkpoints(out) - before:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)


def _checkpoints(out: Path) -> set[Path]:
    return set((out / "checkpoints").glob("step_*"))


def _identical(one: Path, other: Path) -> None:
    ours, theirs = quickstart.weights(one), quickstart.weights(other)
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())
    timeless = ("seconds", "rows_per_second", "waiting")
    lines = [
        [{k: v for k, v in line.items() if k not in timeless} for line in quickstart.metrics(out)]
        for out in (one, other)
    ]
    assert lines[0] == lines[1]
