"""`distill-mtl check recipe.yaml`."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from distill_mtl.checks.check import run_check
from distill_mtl.recipe import load_recipe
from distill_mtl.training.build import build, known_names
from distill_mtl.training.processes import start_accelerator


def check(recipe: Path, overrides: Sequence[str] = ()) -> None:
    """Do everything of a run but train, and say what was found.

    Raises:
        UserError: something is wrong.
    """
    console = Console()
    loaded = load_recipe(recipe, overrides, choices=known_names())
    accelerator = start_accelerator(loaded.training)
    parts = build(loaded)
    run_check(parts, accelerator.device, console)
    console.print(
        f"[green]ready[/green]: {parts.steps} steps of {loaded.training.batch_size} rows. "
        f"Train with: accelerate launch distill.py {recipe}"
    )
