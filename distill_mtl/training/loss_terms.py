"""From a recipe to the loss of each task: its terms, their weights, and the layers of its hints."""

from collections.abc import Mapping

from distill_mtl.distillation.term import HintPair, LossConfig, Term, admit_term, build_terms
from distill_mtl.errors import RecipeError, UserError
from distill_mtl.networks.features import FeatureShape
from distill_mtl.recipe import Recipe
from distill_mtl.recipe.schema import StageSection, TaskSection, task_of
from distill_mtl.students.student import Student
from distill_mtl.teachers.card import TeacherCard
from distill_mtl.teachers.teacher import hidden_name


def admit_terms(recipe: Recipe) -> None:
    """Know every loss term that the recipe names; runs the code of those that users bring."""
    for task, section in recipe.tasks.items():
        for term in section.weights:
            try:
                admit_term(term, trust=section.trust, say="`trust: true` in the task")
            except UserError as error:
                raise RecipeError(f"tasks.{task}.weights.{term}: {error}") from error
    for number, stage in enumerate(recipe.schedule):
        for term in _named_in(stage):
            try:
                admit_term(term, trust=False, say="a weight of the term in a task that has `trust: true`")
            except UserError as error:
                raise RecipeError(f"schedule.{number}: {error}") from error


def loss_configs_of(
    recipe: Recipe, student: Student, teachers: Mapping[str, TeacherCard]
) -> dict[str, LossConfig]:
    """task -> how its loss is made where no stage says otherwise: weights of its terms, and its pairs of hint layers.

    Tasks whose answers are frozen have no loss.

    Args:
        recipe: as loaded.
        student: whose last stage is the default of a hint's own layer.
        teachers: cards by name; their last maps are the default of a hint's other layer.
    """
    return {
        task: _loss_config(
            section, student, {name: card for name, card in teachers.items() if task_of(name) == task}
        )
        for task, section in recipe.tasks.items()
        if task not in student.trunk.frozen
    }


def _loss_config(section: TaskSection, student: Student, teachers: Mapping[str, TeacherCard]) -> LossConfig:
    named = [
        (
            hint.student or student.trunk.last,
            hint.teacher or card.last_map,
            hint.form == "pooled",
            name if len(teachers) > 1 else None,
        )
        for hint in section.hints
        for number, (name, card) in enumerate(teachers.items(), start=1)
        if hint.of in (None, number)
    ]
    # A network that gives nothing but its answer has no default layer to take a hint from.
    pairs = [HintPair(mine, theirs, pooled, of) for mine, theirs, pooled, of in named if theirs is not None]
    return LossConfig(section.weights, section.temperature, pairs)


def terms_of(
    recipe: Recipe,
    loss_configs: Mapping[str, LossConfig],
    student: Student,
    teachers: Mapping[str, TeacherCard],
) -> dict[str, list[Term]]:
    """The terms of every task's loss; their initial weights follow from the seed."""
    named = {term for section in recipe.tasks.values() for term in section.weights}
    named = named.union(*map(_named_in, recipe.schedule))
    asked = {} if recipe.training.teachers_on == "none" else teachers
    shapes: dict[str, dict[str, FeatureShape]] = {}
    for name, teacher in asked.items():
        layers = {
            hidden_name(name, layer) if "/" in name else layer: shape
            for layer, shape in teacher.shapes.items()
        }
        shapes[task_of(name)] = shapes.get(task_of(name), {}) | layers
    return build_terms(loss_configs, student.trunk.shapes, shapes, named=named, seed=recipe.seed)


def _named_in(stage: StageSection) -> set[str]:
    """The terms whose weight a stage changes."""
    return {*stage.weights, *(term for task in stage.tasks.values() for term in task.weights)}
