"""Student against teachers on some rows, with a bar: at the end of a run, and again whenever one asks."""

from collections.abc import Mapping

from rich.console import Console
from torch import nn

from distill_mtl.display import Display
from distill_mtl.evaluation import Evaluation, View, evaluate
from distill_mtl.geometry.views import Size
from distill_mtl.recipe import Recipe
from distill_mtl.tasks.base import TaskKind


def compare_with_bar(
    student: nn.Module,
    teachers: Mapping[str, nn.Module],
    kinds: Mapping[str, TaskKind],
    view: View,
    size: Size,
    recipe: Recipe,
    console: Console,
) -> Evaluation:
    """The comparison as a recipe wants it; every process gets the result.

    Args:
        student, teachers: on the device of the view.
        kinds: the tasks.
        view: the rows.
        size: (height, width) of their images, for the cost.
        recipe: says what is acceptable, and how sure to be.
        console: where progress is shown.

    Raises:
        ShardError: a task has no labelled row in the view.
    """
    rows = sum(view.sources.count(task, view.split) for task in kinds)
    with Display(console, "evaluation", rows, unit="row") as display:
        return evaluate(
            student,
            teachers,
            kinds,
            view,
            size=size,
            acceptance=recipe.acceptance.margin,
            rule=recipe.acceptance.rule,
            resamples=recipe.evaluation.bootstrap,
            seed=recipe.seed,
            progress=lambda done, total: display.update(done),
        )
