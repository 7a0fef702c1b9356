"""Student against teachers on some rows, with a bar: at the end of a run, and again whenever one asks."""

from collections.abc import Mapping

from accelerate import PartialState
from rich.console import Console
from torch import nn

from distill_mtl.data import Sources
from distill_mtl.data.split import Split
from distill_mtl.display import Display
from distill_mtl.evaluation import Evaluation, Processes, View, evaluate
from distill_mtl.evaluation.compare import compare
from distill_mtl.evaluation.results import TaskResult
from distill_mtl.recipe import Recipe
from distill_mtl.tasks.base import TaskKind


def view_of(sources: Sources, split: Split | None, recipe: Recipe) -> View:
    """The rows of a set, shared by the processes that were launched together, on this one's device."""
    state = PartialState()
    return View(
        sources,
        split,
        batch_size=recipe.evaluation.batch_size,
        device=state.device,
        processes=Processes(state.process_index, state.num_processes),
    )


def compare_with_bar(
    student: nn.Module,
    teachers: Mapping[str, nn.Module],
    kinds: Mapping[str, TaskKind],
    view: View,
    recipe: Recipe,
    console: Console,
) -> Evaluation:
    """The comparison as a recipe wants it; every process gets the result.

    Args:
        student, teachers: on the device of the view.
        kinds: the tasks.
        view: the rows of opened `Sources`, whose images' size the costs are measured at.
        recipe: says what is acceptable, and how sure to be.
        console: where progress is shown.

    Raises:
        ShardError: a task has no labelled row in the view.
    """
    assert isinstance(view.sources, Sources)
    rows = sum(view.rows(task) for task in kinds)
    with Display(console, "evaluation", rows, unit="row") as display:
        return evaluate(
            student,
            teachers,
            kinds,
            view,
            size=view.sources.size,
            acceptance=recipe.acceptance.margin,
            rule=recipe.acceptance.rule,
            resamples=recipe.evaluation.bootstrap,
            seed=recipe.seed,
            progress=lambda done, total: display.update(done),
            note=lambda text: display.update(rows, text),
        )


def scores_with_bar(
    name: str,
    network: nn.Module,
    teachers: Mapping[str, nn.Module],
    kinds: Mapping[str, TaskKind],
    view: View,
    recipe: Recipe,
    console: Console,
) -> dict[str, TaskResult]:
    """Scores alone, of a network in the student's place; arguments as in `compare_with_bar`."""
    with Display(console, name, sum(view.rows(task) for task in kinds), unit="row") as display:
        return compare(
            network,
            teachers,
            kinds,
            view,
            resamples=recipe.evaluation.bootstrap,
            seed=recipe.seed,
            progress=lambda done, total: display.update(done),
        )
