"""A run that loses its last checkpoint and goes on must end as the one that was not interrupted."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import quickstart
import torch
from rich.console import Console

from distill_mtl import distill, load_recipe


def resumed(finished: Path, recipe: Path, changes: Sequence[str], run: Path) -> None:
    """Lose the last checkpoint of a copy of a run of six steps and all after it, go on, and compare the weights.

    Args:
        finished: the run's folder.
        recipe, changes: what it was started with.
        run: where the copy goes.
    """
    shutil.copytree(finished, run)
    shutil.rmtree(run / "checkpoints" / "step_00000006")
    (run / "results.json").unlink()
    shutil.rmtree(run / "student")
    distill(load_recipe(recipe, changes), out=run, resume=True, console=Console(quiet=True))
    ours, theirs = quickstart.weights(run), quickstart.weights(finished)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
