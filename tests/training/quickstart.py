"""The quickstart's recipe, shortened, as a user's own process runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).parents[2]
RECIPE = "recipes/multidigits.yaml"

# BatchNorm's statistics are local to a process on the CPU; the smaller batch keeps these runs short. AdamW makes
# a step of the whole rate out of a gradient that is zero but for rounding; the small rate keeps that small.
# In bf16 a teacher's answer depends on the other rows of its batch by more than that.
EXACT = (
    *(f"--set=tasks.{task}.teacher.precision=fp32" for task in ("left", "right", "segment")),
    "--set=student.args.norm_layer=groupnorm1",
    "--set=training.batch_size=48",
    "--set=optimizer.lr=3e-4",
    "--set=training.log_every=1",
    "--set=evaluation.bootstrap=100",
    "--set=acceptance=100",
)


def environment() -> dict[str, str]:
    """Of a child process: one thread, on the CPU, data in the session's cache."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


def command(out: Path, *options: str, launcher: tuple[str, ...] = ()) -> list[str]:
    """The command that runs the quickstart into `out`."""
    return [sys.executable, *launcher, "distill.py", RECIPE, "--out", str(out), *EXACT, *options]


def run(out: Path, *options: str, launcher: tuple[str, ...] = ()) -> str:
    """Run it to its end and give what it printed; a failing run fails the test with its output."""
    done = subprocess.run(
        command(out, *options, launcher=launcher),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def weights(out: Path) -> dict[str, Tensor]:
    return load_file(out / "student" / "model.safetensors")
