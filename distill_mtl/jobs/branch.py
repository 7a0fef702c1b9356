"""`distill-mtl branch RECIPE`: where the student's tasks should leave its trunk, found from the teachers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table

from distill_mtl.display import console_of
from distill_mtl.jobs.arguments import as_recipe, refuse_below
from distill_mtl.recipe import Recipe
from distill_mtl.recipe.yaml_writer import in_line
from distill_mtl.students.owners import in_words
from distill_mtl.training.branching.find import Branching, find_branching
from distill_mtl.training.parts import compare_teachers
from distill_mtl.training.processes import start_accelerator

RANDOM = "random network"
_TITLES = {
    "rsa": "rsa: do two teachers find the same rows alike? (1: the same; a random network shows what any gives)",
    "hard_rows": "hard_rows: share of rows that are hard for both tasks or easy for both (of labelled rows)",
    "cka": "cka: the same question by linear kernels",
}


def branch(
    recipe: Recipe | Path | str,
    overrides: Sequence[str] = (),
    *,
    budget: float = 1.5,
    by: Literal["floor", "rsa", "cka", "hard_rows", "probe"] = "floor",
    rows: int = 600,
    console: Console | None = None,
) -> Branching:
    """Find where tasks should leave the student's trunk.

    Compare the teachers' features at each stage of the student on unlabelled training rows, and print what it costs the
    tasks to share a stage, the best trees of tasks, and the `branch:` lines for the budget. Nothing is
    trained, except by --by probe.

    Args:
        recipe: the recipe, a YAML file; what it says of `student.branch` is not read.
        overrides (--set KEY=VALUE, repeated): override any key, as often as you like:
            --set student.model=resnet18
        budget: the largest tree, in FLOPs of one trunk: 1.5 is half as much again.
        by: what says which tasks may share a stage. floor: how often teachers still answer as they do, if their
            features pass through the best shared stage of the student's width. rsa, cka: how alike their features are.
            hard_rows: whether the same labelled rows are hard for them. probe: a short training by hints of some of the
            best trees of floor.
        rows: training rows that are compared; half of them judge what the other half found.
        console: where it is printed; default standard output.

    Returns:
        Everything that was found.

    Raises:
        UserError: fewer than two teachers can be compared, the student's trunk cannot be cut, or a value is wrong.

    Examples:
        What would half a network more buy?
          distill-mtl branch recipe.yaml --budget 1.5
    """
    refuse_below(1, rows=rows)
    loaded = as_recipe(recipe, overrides)
    accelerator = start_accelerator(loaded.training)
    console = console_of(console, first=accelerator.is_main_process)
    with console.status("comparing the teachers") as status:
        compared = compare_teachers(loaded, rows, accelerator.device)
        found = find_branching(compared, budget, by, status.update)
    show(found, budget, console)
    return found


def show(found: Branching, budget: float, console: Console) -> None:
    """Print the tables, and the lines for the recipe."""
    for task, why in found.left_out.items():
        console.print(
            f"{task} is not compared: {why}. It goes with the group that is the largest at the last stage."
        )
    for measure, pairs in found.likeness.items():
        rows = {"/".join(pair) or RANDOM: values for pair, values in pairs.items()}
        show_by_depth(_TITLES[measure], [depth.layer for depth in found.depths], rows, 2, console)
    if found.floor is not None:
        said = "floor: points of its own agreement that each task loses, if all tasks share the stage"
        show_by_depth(said, [depth.layer for depth in found.depths], found.floor, 1, console)
    _show_trees(found, budget, console)
    if not found.branch:
        console.print(
            "one trunk for all tasks: no tree within the budget is worth its size. Write no `branch`."
        )
        return
    console.print(f"Write into the recipe, below `student:` ({found.chosen.size:.2f} networks):")
    console.print("  branch:")
    for stage, groups in found.branch.items():
        console.print(f"    {in_line(stage)}: {in_line(groups)}", soft_wrap=True, markup=False)
    console.print(
        "Where it was measured, such trees moved single tasks by up to 6 points, some of them down, and the mean over "
        "all tasks hardly; trees of one size did alike. Compare it with one trunk and a wider one (docs/students.md).",
        soft_wrap=True,
    )


def show_by_depth(
    title: str,
    depths: Sequence[str],
    rows: Mapping[str, Sequence[float | None]],
    digits: int,
    console: Console,
) -> None:
    """Print a table of numbers with a column for each depth; what is of random networks is dim."""
    console.print(title, style="bold", soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for depth in depths:
        table.add_column(depth, justify="right")
    for name, values in rows.items():
        style = "dim" if name == RANDOM else None
        cells = ("" if value is None else f"{value:.{digits}f}" for value in values)
        table.add_row(name, *cells, style=style)
    console.print(table)


def _show_trees(found: Branching, budget: float, console: Console) -> None:
    said = f"the best trees ({found.unit}: mean over the tasks, summed over the stages behind the first)"
    console.print(said, style="bold", soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("networks", "MFLOPs", found.unit):
        table.add_column(column, justify="right")
    table.add_column("tree")
    whole = sum(depth.size for depth in found.depths) / 1e6
    names = [depth.name for depth in found.depths]
    for tree in found.trees:
        style = "bold" if tree == found.chosen else "dim" if tree.size > budget else None
        cells = (f"{tree.size:.2f}", f"{tree.size * whole:,.1f}", f"{tree.loss:.2f}")
        table.add_row(*cells, in_words(tree.branches(names)) or "one trunk", style=style)
    console.print(table)
