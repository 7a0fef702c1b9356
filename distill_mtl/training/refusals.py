"""What a recipe may not ask for, seen only when its kinds of task, its data and its schedule are there."""

from collections.abc import Mapping

from accelerate.tracking import get_available_trackers

from distill_mtl.data import Sources
from distill_mtl.distillation.stages import Schedule
from distill_mtl.errors import RecipeError
from distill_mtl.recipe import Recipe
from distill_mtl.recipe.long_form import no_margin
from distill_mtl.tasks.base import TaskKind


def refuse_missing_trackers(recipe: Recipe) -> None:
    """Refuse a tracker whose package is not installed; Accelerate would leave it out without a word."""
    there = {str(name) for name in get_available_trackers()}
    if missing := [name for name in recipe.training.trackers if name not in there]:
        raise RecipeError(
            f"training.trackers: {missing[0]} is not installed. Run `pip install {' '.join(missing)}`, or remove it "
            "from the list: metrics.jsonl is written all the same."
        )


def refuse_unheard(recipe: Recipe, kinds: Mapping[str, TaskKind]) -> None:
    """Refuse an option that compares teachers with labels where no teacher sees a row with a label."""
    if recipe.training.teachers_on != "missing":
        return
    for task, kind in kinds.items():
        if kind.options_on_labelled_rows and recipe.tasks[task].teacher is not None:
            raise RecipeError(
                f"tasks.{task}.options.{kind.options_on_labelled_rows[0]} compares the teacher with labels, and with "
                "`training.teachers_on: missing` teachers see only rows that have none. Use "
                "`training.teachers_on: all`, or remove the option."
            )


def refuse_unknown_drops(recipe: Recipe, kinds: Mapping[str, TaskKind]) -> None:
    """Refuse to judge a score in the labels' unit by one point; the loader cannot, where the kind is a user's code."""
    for task, kind in kinds.items():
        judged = recipe.tasks[task].teacher is not None
        if judged and not kind.in_points and task not in recipe.acceptance.margin:
            raise RecipeError(f"tasks.{task}: {no_margin(task, kind.metric)}")


def refuse_untaught(recipe: Recipe, schedule: Schedule, sources: Sources) -> None:
    """Refuse a task whose labels teach nothing and leave its teacher no row: its head would stay random."""
    for task in recipe.tasks:
        labels_teach = any(stage.loss_configs[task].uses_labels for stage in schedule.stages)
        if labels_teach or recipe.training.teachers_on != "missing" or not sources.covered_by_labels(task):
            continue
        raise RecipeError(
            f"tasks.{task}.weights: no term that reads labels has a weight, and every row has a label, so none is left "
            "for the teacher. Use `training.teachers_on: all`, or give `supervised` a weight."
        )
