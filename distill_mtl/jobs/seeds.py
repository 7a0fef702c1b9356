"""`distill-mtl distill RECIPE --seeds N`: the same recipe with N seeds in turn, and what they say together.

Every seed is a run folder of its own, OUT/seed-0 and so on, so that a report, an export or another evaluation takes it
like any other run.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from distill_mtl.errors import Stopped, UserError
from distill_mtl.evaluation import Evaluation
from distill_mtl.evaluation.seeds import SeedRuns
from distill_mtl.files import refuse_unwritable, write_text
from distill_mtl.recipe import Recipe, dump_recipe
from distill_mtl.remote_files import is_remote
from distill_mtl.report.console import print_summary
from distill_mtl.report.html import page
from distill_mtl.report.run_comparison import comparison_of
from distill_mtl.report.run_record import read_run
from distill_mtl.training.processes import from_first_process, on_first_process, start_processes
from distill_mtl.training.run_folder import RunFolder

MOST_SEEDS = 100
COMPARISON = "comparison.html"


class OneRun(Protocol):
    """Trains and compares one run; given what an earlier one of the same teachers found out about them."""

    def __call__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        console: Console,
        *,
        resume: bool,
        overwrite: bool,
        checked: Mapping[str, Any] | None,
        forecasts: Path | None,
    ) -> tuple[Evaluation, Mapping[str, Any]]: ...


def distill_seeds(
    recipe: Recipe,
    out: Path | str,
    count: int,
    one_run: OneRun,
    *,
    resume: bool,
    auto_resume: bool = False,
    overwrite: bool,
    console: Console,
) -> SeedRuns:
    """Train a recipe with `count` seeds from its own on; finished runs are kept with `resume`, a killed one goes on.

    Args:
        recipe: of all runs.
        out: folder of the run folders.
        count: of seeds.
        one_run: trains one.
        resume, auto_resume, overwrite: as of `distill`.
        console: where progress and the table are shown.

    Raises:
        UserError: a folder holds another run, or none to continue; whatever one run is refused for.
        Stopped: in one of the runs.
    """
    if not 2 <= count <= MOST_SEEDS:
        raise UserError(f"--seeds {count}: expected a whole number from 2 to {MOST_SEEDS}.")
    if is_remote(out):
        raise UserError(f"--out {out}: --seeds writes its folders on this machine. Give --out a folder.")
    out = Path(out)
    first = recipe.seed
    runs = {
        seed: (recipe.model_copy(update={"seed": seed}), RunFolder(out / f"seed-{seed}"))
        for seed in range(first, first + count)
    }
    on_first_process(lambda: refuse_unwritable(out, "--out", folder=True))
    begun = from_first_process(any(folder.recipe.exists() for _, folder in runs.values()))
    resume = resume or (auto_resume and begun)
    if resume and not begun:
        raise UserError(f"{out} has no run of these seeds to continue. Check --out, or leave out --resume.")
    for each, folder in runs.values():
        if resume and folder.recipe.exists() and not (_holds_steps(folder) or _is_finished(folder)):
            continue  # it was stopped before its first checkpoint, and begins again
        goes_on = resume and folder.recipe.exists()
        decided = folder.decided(each) if goes_on else each
        folder.refuse(dump_recipe(decided), resume=goes_on, overwrite=overwrite)
    if overwrite:  # all of them now: what is not begun again must not count as finished later
        on_first_process(lambda: _clear([folder for _, folder in runs.values() if folder.recipe.exists()]))
    found: dict[int, Evaluation] = {}
    checked: Mapping[str, Any] | None = None
    for number, (seed, (each, folder)) in enumerate(runs.items(), 1):
        console.print(f"\nseed {seed}, {number} of {count}: {folder.path}", style="bold", highlight=False)
        if resume and _is_finished(folder):
            console.print("finished, and kept", highlight=False)
            found[seed] = Evaluation.read(folder.results)
            continue
        goes_on = resume and _holds_steps(folder)
        again = not goes_on and folder.recipe.exists()
        try:
            found[seed], checked = one_run(
                each,
                folder,
                console,
                resume=goes_on,
                overwrite=again,
                checked=checked,
                forecasts=out.parent,
            )
        except Stopped as stopped:
            raise type(stopped)(
                f"stopped in seed {seed}, {number} of {count}. Continue with --resume; finished seeds "
                "are kept."
            ) from stopped
    if start_processes().is_main_process:
        report = comparison_of([read_run(folder.path) for _, folder in runs.values()])
        write_text(out / COMPARISON, page(report))
        console.print(f"\nreport of all seeds: {out / COMPARISON}\n", highlight=False, soft_wrap=True)
        print_summary(console, report)
    return SeedRuns(found)


def _is_finished(folder: RunFolder) -> bool:
    return folder.results.exists() and folder.report.exists()


def _holds_steps(folder: RunFolder) -> bool:
    return folder.checkpoints.is_dir() and any(folder.checkpoints.iterdir())


def _clear(folders: Sequence[RunFolder]) -> None:
    for folder in folders:
        folder.clear()
