"""The quickstart's recipe, shortened, as a user's own process runs it."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import children
from safetensors.torch import load_file
from torch import Tensor

RECIPE = "recipes/multidigits.yaml"
SHORT = (*children.TOYS, "distill")
"""In place of `distill.py`, which times networks and draws charts at the end."""

# BatchNorm's statistics are local to a process on the CPU; the smaller batch keeps these runs short. AdamW makes
# a step of the whole rate out of a gradient that is zero but for rounding; the small rate keeps that small.
# In bf16 a teacher's answer depends on the other rows of its batch by more than that.
EXACT = (
    *(f"--set=tasks.{task}.teacher.precision=fp32" for task in ("left", "right", "segment")),
    "--set=student.args.norm_layer=groupnorm1",
    "--set=training.batch_size=48",
    "--set=optimizer.lr=3e-4",
    "--set=training.precision=fp32",
    "--set=training.log_every=1",
    "--set=evaluation.bootstrap=100",
    "--set=acceptance=100",
)


def command(
    out: Path, *options: str, launcher: Sequence[str] = (), script: Sequence[str] = SHORT
) -> list[str]:
    """The command that runs the quickstart into `out`."""
    return children.command(RECIPE, "--out", out, *EXACT, *options, launcher=launcher, script=script)


def run(out: Path, *options: str, launcher: Sequence[str] = ()) -> str:
    """Run it to its end and give what it printed; a failing run fails the test with its output."""
    done = tried(out, *options, launcher=launcher)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def tried(
    out: Path, *options: str, launcher: Sequence[str] = (), script: Sequence[str] = SHORT
) -> subprocess.CompletedProcess[str]:
    """Run it, however it ends."""
    return children.run(RECIPE, "--out", out, *EXACT, *options, launcher=launcher, script=script)


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def weights(out: Path) -> dict[str, Tensor]:
    return load_file(out / "student" / "model.safetensors")
