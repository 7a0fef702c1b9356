"""Every mode goes on from a checkpoint to the bit: self-teachers, gradients that wait, the stage of a step."""

import shutil
from pathlib import Path

import pytest
import quickstart
import torch
from rich.console import Console

from distill_mtl import distill, load_recipe

QUIET = Console(quiet=True)
MODES = {
    "frozen": (
        "tasks.hue.teacher=self",
        "tasks.hue.classes=3",
        "training.stream={mode: alternate, phase: 2}",
    ),
    "every": (
        "tasks.hue.teacher={student: frozen, every: 2}",
        "tasks.hue.classes=3",
        "training.teachers_on=all",
    ),
    "ema": ("tasks.hue.teacher={student: ema, decay: 0.7, every: 1}", "tasks.hue.classes=3"),
    "asynchronous": ("training.asynchronous={trunk: 30, heads: {hue: 20, shape: 24}}",),
    "fitnets": ("schedule=fitnets", "schedule.0.until=4", "student.args={norm: true}"),
    "gate": ("tasks.hue.gate={entropy: 0.8}", "tasks.shape.gate={confidence: 0.6}"),
}


@pytest.mark.parametrize("mode", MODES)
def test_a_run_that_goes_on_ends_bit_identical(recipe: Path, tmp_path: Path, mode: str) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    loaded = load_recipe(recipe, [*MODES[mode], "training.log_every=1"])
    distill(loaded, out=whole, console=QUIET)
    shutil.copytree(whole, cut)
    for folder in ("checkpoints/step_00000006", "student"):
        shutil.rmtree(cut / folder)
    distill(loaded, out=cut, resume=True, console=QUIET)
    ours, theirs = (torch.load(out / "checkpoints/step_00000006/state.pt") for out in (whole, cut))
    _equal({key: value for key, value in ours.items() if key != "seconds"}, theirs)
    timeless = ("seconds", "rows_per_second", "waiting")
    lines = [
        [
            {key: value for key, value in line.items() if key not in timeless}
            for line in quickstart.metrics(out)
        ]
        for out in (whole, cut)
    ]
    assert lines[0] == lines[1]


def _equal(ours: object, theirs: object) -> None:
    if isinstance(ours, torch.Tensor):
        assert isinstance(theirs, torch.Tensor)
        assert torch.equal(ours, theirs)
    elif isinstance(ours, dict):
        assert isinstance(theirs, dict)
        for key, value in ours.items():
            _equal(value, theirs[key])
    elif isinstance(ours, list):
        assert isinstance(theirs, list)
        for one, other in zip(ours, theirs, strict=True):
            _equal(one, other)
    else:
        assert ours == theirs
