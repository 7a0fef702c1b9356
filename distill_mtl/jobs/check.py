"""`distill-mtl check RECIPE`: what every run does before its first step."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from distill_mtl.checks.before_training import run_check, try_one_batch
from distill_mtl.display import output
from distill_mtl.jobs.arguments import as_recipe, recipe_place
from distill_mtl.recipe import Recipe
from distill_mtl.training.parts import build
from distill_mtl.training.processes import start_accelerator


def check(
    recipe: Recipe | Path | str, overrides: Sequence[str] = (), *, console: Console | None = None
) -> None:
    """Do everything of a run but train.

    Validate the recipe, walk every shard to its end, load every teacher and measure it on its own labelled
    validation rows, run one batch through all of it. A teacher that falls short is refused, with the likely cause.

    Args:
        recipe: the recipe, a YAML file.
        overrides (--set KEY=VALUE, repeated): override any key, as often as you like:
            --set tasks.breed.temperature=2
        console: where findings are shown; default standard output of the first process.

    Raises:
        UserError: something is wrong.
        KeyboardInterrupt: interrupted before the check was finished. Nothing was trained.
    """
    loaded = as_recipe(recipe, overrides)
    accelerator = start_accelerator(loaded.training)
    console = (console or output()) if accelerator.is_main_process else Console(quiet=True)
    parts = build(loaded)
    run_check(parts, accelerator.device, console)
    try_one_batch(parts, accelerator.device, slices=loaded.training.accumulate)
    console.print(
        f"[green]ready[/green]: {parts.steps} steps of {loaded.training.batch_size} rows. "
        f"Train with: accelerate launch distill.py {recipe_place(recipe)}"
    )
