"""From a recipe's `schedule` to the loss configs of every step, with everything that makes no sense refused."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from distill_mtl.distillation.hints import Hint
from distill_mtl.distillation.loss_config import LossConfig
from distill_mtl.distillation.stages import Schedule, Stage, named_parameters
from distill_mtl.errors import RecipeError, UserError
from distill_mtl.recipe import Recipe
from distill_mtl.recipe.schema import StageSection, StageWeights, TermWeights
from distill_mtl.students.student import Student

Hints = Mapping[str, Sequence[Hint]]


def build_schedule(
    recipe: Recipe, loss_configs: Mapping[str, LossConfig], student: Student, hints: Hints, steps: int
) -> Schedule:
    """The stages of a run; a single one where the recipe has none.

    Args:
        recipe: as loaded.
        loss_configs: task -> how it is learned where no stage says otherwise.
        student: built.
        hints: task -> its adapters.
        steps: of the run.

    Raises:
        RecipeError: stages that do not follow one another, a part that does not exist, a stage in which
            nothing is learned or nothing trains, or a task that no stage teaches.
    """
    sections = recipe.schedule or [StageSection()]
    stages: list[Stage] = []
    for number, (section, ends) in enumerate(zip(sections, _ends(sections, steps), strict=True)):
        in_stage = {
            task: _loss_config(section, task, loss_config) for task, loss_config in loss_configs.items()
        }
        trains = _trains(number, section, student, in_stage, hints)
        stage = Stage(ends, in_stage, trains)
        _refuse_idle(f"schedule.{number}", section, recipe, student, hints, stage)
        stages.append(stage)
    for task in loss_configs:
        if not any(_terms(recipe, hints, stage.loss_configs[task], task) for stage in stages):
            raise RecipeError(
                f"tasks.{task}: nothing trains the task: none of the terms of its loss has both a weight and rows. "
                "Look at `weights`, at `training.teachers_on` and at the `schedule`."
            )
    return Schedule(stages)


def _ends(sections: Sequence[StageSection], steps: int) -> list[int]:
    """The first step after each stage."""
    ends: list[int] = []
    for number, section in enumerate(sections):
        last, until = number + 1 == len(sections), section.until
        end = steps if until is None else until if isinstance(until, int) else round(until * steps)
        if last and end < steps:
            raise RecipeError(
                f"schedule.{number}.until: the last stage ends with step {end} of {steps}. Remove its `until`, or add "
                "a stage."
            )
        before = ends[-1] if ends else 0
        if not last and not before < end < steps:
            raise RecipeError(
                f"schedule.{number}.until: the stage would end with step {end} of {steps}, the one before it ends with "
                f"step {before}: each stage needs a step of its own. Correct `until`, or make the run longer."
            )
        ends.append(min(end, steps))
    return ends


def _loss_config(section: StageSection, task: str, loss_config: LossConfig) -> LossConfig:
    """The task's word, then the stage's, then the stage's about the task."""
    weights, temperature = _changed(loss_config.weights, section.weights), section.temperature
    if task in section.tasks:
        weights = _changed(weights, section.tasks[task].weights)
        temperature = section.tasks[task].temperature or temperature
    return replace(loss_config, weights=weights, temperature=temperature or loss_config.temperature)


def _changed(weights: TermWeights, stage: StageWeights) -> TermWeights:
    return weights.model_copy(update=stage.model_dump(exclude_none=True))


def _trains(
    number: int, section: StageSection, student: Student, loss_configs: Mapping[str, LossConfig], hints: Hints
) -> frozenset[str] | None:
    if section.train is None:
        return None
    guided = [
        pair.student
        for task, loss_config in loss_configs.items()
        if hints.get(task) and loss_config.weights.hint
        for pair in loss_config.hints
    ]
    names: frozenset[str] = frozenset()
    for position, part in enumerate(section.train):
        try:
            names |= named_parameters(student, hints, part, guided)
        except UserError as error:
            raise RecipeError(f"schedule.{number}.train.{position}: {error}") from error
    return names


def _refuse_idle(
    key: str, section: StageSection, recipe: Recipe, student: Student, hints: Hints, stage: Stage
) -> None:
    terms = {
        task: _terms(recipe, hints, loss_config, task) for task, loss_config in stage.loss_configs.items()
    }
    if not any(terms.values()):
        raise RecipeError(
            f"{key}: no task has anything to learn in this stage: no term of a loss has both a weight and rows. "
            "Look at its `weights`, at the tasks' hints and at `training.teachers_on`; without a schedule: "
            "--set schedule=[]."
        )
    if stage.trains is None:
        return
    reached: frozenset[str] = frozenset()
    for task, of_task in terms.items():
        if of_task & {"supervised", "soft_targets"}:
            reached |= named_parameters(student, hints, f"heads:{task}")
            reached |= named_parameters(student, hints, "trunk")
        if "hint" in of_task:
            layers = [pair.student for pair in stage.loss_configs[task].hints]
            reached |= named_parameters(student, {task: hints[task]}, "adapters")
            reached |= named_parameters(student, hints, "guided", layers)
    if not stage.trains & reached:
        raise RecipeError(
            f"{key}.train: nothing would train: what the stage's losses reach is no part of "
            f"{', '.join(section.train or [])}. Name a part that they reach, or give another term a weight."
        )


def _terms(recipe: Recipe, hints: Hints, loss_config: LossConfig, task: str) -> frozenset[str]:
    """The terms of the task's loss that rows can have."""
    labelled = any(task in source.labels for source in recipe.data.values())
    taught = recipe.tasks[task].teacher is not None and recipe.training.teachers_on != "none"
    possible = {
        "supervised": labelled and loss_config.weights.supervised > 0,
        "soft_targets": taught and loss_config.weights.soft_targets > 0,
        "hint": taught and loss_config.weights.hint > 0 and bool(hints.get(task)),
    }
    return frozenset(term for term, is_possible in possible.items() if is_possible)
