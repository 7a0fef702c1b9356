"""From a recipe's `schedule` to the loss configs of every step, with every contradiction refused."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from distill_mtl.distillation.stages import Schedule, Stage, named_parameters
from distill_mtl.distillation.term import LossConfig, Term, TermRows
from distill_mtl.errors import RecipeError, UserError
from distill_mtl.recipe import Recipe
from distill_mtl.recipe.schema import StageSection
from distill_mtl.students.student import Student

Terms = Mapping[str, Sequence[Term]]


def build_schedule(
    recipe: Recipe, loss_configs: Mapping[str, LossConfig], student: Student, terms: Terms, steps: int
) -> Schedule:
    """The stages of a run; a single one where the recipe has none.

    Args:
        recipe: as loaded.
        loss_configs: task -> how it is learned where no stage says otherwise.
        student: built.
        terms: task -> its terms.
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
        trains = _trains(number, section, student, in_stage, terms)
        stage = Stage(ends, in_stage, trains)
        _refuse_idle(f"schedule.{number}", section, recipe, student, terms, stage)
        stages.append(stage)
    for task in loss_configs:
        if not any(_terms_with_rows(recipe, terms[task], stage.loss_configs[task], task) for stage in stages):
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


def _loss_config(section: StageSection, task: str, config: LossConfig) -> LossConfig:
    """The task's values, overridden by the stage's, then by the stage's for the task."""
    weights, temperature = {**config.weights, **_given(section.weights)}, section.temperature
    if task in section.tasks:
        weights |= _given(section.tasks[task].weights)
        temperature = section.tasks[task].temperature or temperature
    return replace(config, weights=weights, temperature=temperature or config.temperature)


def _given(weights: Mapping[str, float | None]) -> dict[str, float]:
    return {term: weight for term, weight in weights.items() if weight is not None}


def _trains(
    number: int, section: StageSection, student: Student, loss_configs: Mapping[str, LossConfig], terms: Terms
) -> frozenset[str] | None:
    if section.train is None:
        return None
    guided = {
        task: [pair.student for pair in config.hints]
        for task, config in loss_configs.items()
        if any(term.uses_layers and config.weight(term) > 0 for term in terms[task])
    }
    names: frozenset[str] = frozenset()
    for position, part in enumerate(section.train):
        try:
            names |= named_parameters(student, terms, part, guided)
        except UserError as error:
            raise RecipeError(f"schedule.{number}.train.{position}: {error}") from error
    return names


def _refuse_idle(
    key: str, section: StageSection, recipe: Recipe, student: Student, terms: Terms, stage: Stage
) -> None:
    with_rows = {
        task: _terms_with_rows(recipe, terms[task], config, task)
        for task, config in stage.loss_configs.items()
    }
    if not any(with_rows.values()):
        raise RecipeError(
            f"{key}: no task has anything to learn in this stage: no term of a loss has both a weight and rows. "
            "Look at its `weights`, at the tasks' hints and at `training.teachers_on`; without a schedule: "
            "--set schedule=[]."
        )
    if stage.trains is None:
        return
    reached: frozenset[str] = frozenset()
    for task, of_task in with_rows.items():
        reached |= named_parameters(student, {task: of_task}, "adapters")
        if any(term.uses_logits for term in of_task):
            reached |= named_parameters(student, terms, f"heads:{task}")
            reached |= _path(student, terms, task)
        if any(term.uses_layers for term in of_task):
            layers = [pair.student for pair in stage.loss_configs[task].hints]
            reached |= named_parameters(student, terms, "guided", {task: layers})
    if not stage.trains & reached:
        raise RecipeError(
            f"{key}.train: nothing would train: the stage's losses reach no part of "
            f"{', '.join(section.train or [])}. Name a part that they reach, or give another term a weight."
        )


def _path(student: Student, terms: Terms, task: str) -> frozenset[str]:
    """The parameters of the trunk on a task's path."""
    parts = [f"trunk:{part}" for part, tasks in student.trunk.parts.items() if task in tasks]
    return frozenset().union(*(named_parameters(student, terms, part) for part in parts or ["trunk"]))


def _terms_with_rows(recipe: Recipe, terms: Sequence[Term], config: LossConfig, task: str) -> list[Term]:
    """The terms of the task's loss that have a weight, and that rows can have."""
    there: dict[TermRows, bool] = {
        "labelled": any(task in source.labels for source in recipe.data.values()),
        "taught": recipe.tasks[task].teacher is not None and recipe.training.teachers_on != "none",
    }
    return [term for term in terms if config.weight(term) > 0 and there[term.rows]]
