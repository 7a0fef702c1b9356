"""Which balancing rule a run takes, and why: where the method that weights the tasks' gradients is chosen."""

from collections.abc import Container, Iterable

import torch

from distill_mtl.balance import Rule, make_rule
from distill_mtl.balance.gradnorm import GradNorm
from distill_mtl.balance.gramian_rule import GramianRule
from distill_mtl.balance.loss_rule import LossRule
from distill_mtl.balance.mgda import MGDA
from distill_mtl.data import Sources
from distill_mtl.distillation.stages import Schedule
from distill_mtl.distillation.term import LossConfig
from distill_mtl.errors import RecipeError
from distill_mtl.reading import machine_memory
from distill_mtl.recipe import Recipe
from distill_mtl.students.student import Body
from distill_mtl.training.target_providers import self_taught, weights_by_source


def choose_rule(
    recipe: Recipe, schedule: Schedule, teachers: Container[str], sources: Sources, trunk: Body
) -> tuple[Rule, str]:
    """The balancing rule of a recipe and why it was taken.

    MGDA-UB compares gradients on the same rows, so it needs a label or a teacher for every task on every
    row, in every stage; without them it would only see which task has how many rows. A self-teacher does
    not count: before the first freeze it gives no targets, and then it answers as the student does, so that its
    gradient is nearly zero. Parts that step by their own counts never take the step that a Gramian was for.

    Args:
        recipe: as loaded.
        schedule: its stages.
        teachers: tasks with a teacher.
        sources: the data sets.
        trunk: of the student.

    Raises:
        RecipeError: a rule that needs such cover was asked for by name, and a task lacks it; or one that
            compares gradients, with `training.asynchronous`.
    """
    trained = [task for task in recipe.tasks if task not in trunk.frozen]
    bare = [
        task
        for task in trained
        if not all(
            _covered(task, recipe, stage.loss_configs[task], task in teachers, sources)
            for stage in schedule.stages
        )
    ]
    alone = not trunk.compares
    asynchronous = recipe.training.asynchronous is not None
    method, options = recipe.balance.method, recipe.balance.options
    if method == "auto":
        fits = bool(trunk.in_common()) and not trunk.units() and _gradients_fit(trunk, len(trained))
        ruled_out = bare or asynchronous or (alone and not fits) or len(trained) == 1
        method = "uniform" if ruled_out else "mgda" if alone else "mgda_ub"
        if len(trained) == 1:
            why = "there is one task" if len(recipe.tasks) == 1 else "one task trains"
        elif bare:
            why = (
                f"some rows have neither a label nor a teacher for {', '.join(bare)}{_why_bare(recipe, bare)}"
            )
        elif asynchronous:
            why = "with training.asynchronous the parts do not step together"
        elif alone and fits:
            why = "no two tasks read the same features, and they have parameters in common"
        elif alone:
            why = "no two tasks read the same features"
        else:
            why = "every row has a label or a teacher for every task"
        reason = f"balance: {method} (auto: {why})"
    else:
        reason = f"balance: {method} (from the recipe)"
    try:
        rule = make_rule(method, trained, **options)
    except (ValueError, TypeError, ImportError) as error:
        raise RecipeError(f"balance: {error}") from error
    if asynchronous and not isinstance(rule, LossRule):
        raise RecipeError(
            f"balance.method: {method} chooses one step for all tasks from the gradients of a batch, and with "
            "training.asynchronous trunk and heads step at different times, from several batches. Use a rule that "
            "weights losses (uniform, fixed, uncertainty, geometric, gradnorm), or remove training.asynchronous."
        )
    common = bool(trunk.in_common())
    if alone and isinstance(rule, GramianRule | GradNorm) and not (common and isinstance(rule, MGDA)):
        instead = "or `mgda`, which compares parameters, for a backward pass of each task" if common else ""
        raise RecipeError(
            f"balance.method: {method} compares the gradients of tasks that read the same features, and with this "
            f"student.{next(iter(trunk.layout), 'model')} no two do. Use uniform, fixed, uncertainty or geometric"
            f"{instead and f', {instead}'}."
        )
    if rule.needs_coverage and bare:
        raise RecipeError(
            f"balance.method: {method} needs a label or a teacher for every task on every row, and some rows have "
            f"neither for {', '.join(bare)}: gradients on different rows cannot be compared. "
            "Give those tasks a teacher (and training.teachers_on missing or all), or use uniform."
            f"{_why_bare(recipe, bare)}"
        )
    return rule, reason


def _gradients_fit(trunk: Body, tasks: int) -> bool:
    """Whether a gradient of every task, of all parameters that tasks have in common, takes less than a tenth of the
    memory."""
    needed = tasks * sum(value.numel() * value.element_size() for value in trunk.in_common())
    on_gpu = torch.cuda.is_available()
    memory = torch.cuda.get_device_properties(0).total_memory if on_gpu else machine_memory()
    return 10 * needed < memory


def _why_bare(recipe: Recipe, bare: Iterable[str]) -> str:
    """A note about tasks without a target on every row; empty if there are none."""
    own = [task for task in bare if task in self_taught(recipe)]
    if own:
        return f"; the self-teacher of {', '.join(own)} knows no more than the student"
    return "; the schedule takes the weight from labels or teachers for a while" if recipe.schedule else ""


def _covered(task: str, recipe: Recipe, loss_config: LossConfig, has_teacher: bool, sources: Sources) -> bool:
    weights = weights_by_source(recipe.tasks[task])
    # Of several teachers one must be asked about each data set.
    everywhere = all(any(of_one.get(name, 1.0) for of_one in weights) for name in recipe.data)
    taught = has_teacher and loss_config.uses_teacher and everywhere and recipe.training.teachers_on != "none"
    if taught and (recipe.training.teachers_on == "all" or loss_config.uses_labels):
        return True
    return loss_config.uses_labels and sources.covered_by_labels(task)
