"""`distill-mtl check RECIPE`: what every run does before its first step."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from distill_mtl.checks.before_training import check_every_row, run_check, try_one_batch
from distill_mtl.cores import reader_workers
from distill_mtl.display import console_of
from distill_mtl.jobs.arguments import as_recipe, recipe_place
from distill_mtl.recipe import Recipe
from distill_mtl.training.parts import build
from distill_mtl.training.processes import (
    on_first_process,
    start_accelerator,
    start_processes,
)


def check(
    recipe: Recipe | Path | str,
    overrides: Sequence[str] = (),
    *,
    deep: bool = False,
    console: Console | None = None,
) -> None:
    """Do everything that a run does before it trains.

    Validate the recipe, read every shard to its end and every label, load every teacher and measure it on its own
    labelled validation rows, then run one batch through everything. A teacher that scores too low is refused, with the
    likely cause.

    Args:
        recipe: the recipe, a YAML file.
        overrides (--set KEY=VALUE, repeated): override any key, as often as you like:
            --set tasks.breed.temperature=2
        deep: read every row too: compare it with its checksums, decode its picture, read its labels. It takes as long
            as one pass over the data.
        console: where findings are shown; default standard output of the first process.

    Raises:
        UserError: something is wrong.
        KeyboardInterrupt: interrupted before the check was finished. Nothing was trained.
    """
    loaded = as_recipe(recipe, overrides)
    console = console_of(console, first=start_processes().is_main_process)
    parts = build(loaded)
    accelerator = start_accelerator(parts.recipe.training)
    if deep:
        workers = reader_workers(loaded.training.workers, accelerator.device)
        on_first_process(lambda: check_every_row(parts.sources, workers, console))
    on_first_process(lambda: run_check(parts, accelerator.device, console))
    try_one_batch(parts, accelerator.device, slices=loaded.training.accumulate)
    said = (
        f": {parts.steps} steps of {loaded.training.batch_size} rows. "
        f"Train with: accelerate launch distill.py {recipe_place(recipe)}"
    )
    console.print(Text.assemble(("ready", "green"), said))
