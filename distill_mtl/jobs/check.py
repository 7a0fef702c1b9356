"""`distill-mtl check recipe.yaml`."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from distill_mtl.checks.before_training import run_check, try_one_batch
from distill_mtl.display import output
from distill_mtl.recipe import load_recipe
from distill_mtl.training.parts import build
from distill_mtl.training.processes import start_accelerator


def check(recipe: Path, overrides: Sequence[str] = ()) -> None:
    """Do everything of a run but train, and say what was found.

    Raises:
        UserError: something is wrong.
    """
    loaded = load_recipe(recipe, overrides)
    accelerator = start_accelerator(loaded.training)
    console = output() if accelerator.is_main_process else Console(quiet=True)
    parts = build(loaded)
    run_check(parts, accelerator.device, console)
    try_one_batch(parts, accelerator.device, slices=loaded.training.accumulate)
    console.print(
        f"[green]ready[/green]: {parts.steps} steps of {loaded.training.batch_size} rows. "
        f"Train with: accelerate launch distill.py {recipe}"
    )
