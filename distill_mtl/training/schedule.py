"""From a recipe's `schedule` to the lessons of every step, with everything that makes no sense refused."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from distill_mtl.distillation.hints import Hint
from distill_mtl.distillation.lesson import Lesson
from distill_mtl.distillation.stages import Schedule, Stage, named_parameters
from distill_mtl.errors import RecipeError, UserError
from distill_mtl.recipe import Recipe
from distill_mtl.recipe.schema import StageSection, StageWeights, TermWeights
from distill_mtl.students.student import Student

Hints = Mapping[str, Sequence[Hint]]


def build_schedule(
    recipe: Recipe, lessons: Mapping[str, Lesson], student: Student, hints: Hints, steps: int
) -> Schedule:
    """The stages of a run; a single one where the recipe has none.

    Args:
        recipe: as loaded.
        lessons: task -> how it is learned where no stage says otherwise.
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
        in_stage = {task: _lesson(section, task, lesson) for task, lesson in lessons.items()}
        trains = _trains(number, section, student, in_stage, hints)
        stage = Stage(ends, in_stage, trains)
        _refuse_idle(f"schedule.{number}", section, recipe, student, hints, stage)
        stages.append(stage)
    for task in lessons:
        if not any(_terms(recipe, hints, stage.lessons[task], task) for stage in stages):
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


def _lesson(section: StageSection, task: str, lesson: Lesson) -> Lesson:
    """The task's word, then the stage's, then the stage's about the task."""
    weights, temperature = _changed(lesson.weights, section.weights), section.temperature
    if task in section.tasks:
        weights = _changed(weights, section.tasks[task].weights)
        temperature = section.tasks[task].temperature or temperature
    return replace(lesson, weights=weights, temperature=temperature or lesson.temperature)


def _changed(weights: TermWeights, stage: StageWeights) -> TermWeights:
    return weights.model_copy(update=stage.model_dump(exclude_none=True))


def _trains(
    number: int, section: StageSection, student: Student, lessons: Mapping[str, Lesson], hints: Hints
) -> frozenset[str] | None:
    if section.train is None:
        return None
    guided = [
        pair.student
        for task, lesson in lessons.items()
        if hints.get(task) and lesson.weights.hint
        for pair in lesson.hints
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
    terms = {task: _terms(recipe, hints, lesson, task) for task, lesson in stage.lessons.items()}
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
            layers = [pair.student for pair in stage.lessons[task].hints]
            reached |= named_parameters(student, {task: hints[task]}, "adapters")
            reached |= named_parameters(student, hints, "guided", layers)
    if not stage.trains & reached:
        raise RecipeError(
            f"{key}.train: nothing would train: what the stage's losses reach is no part of "
            f"{', '.join(section.train or [])}. Name a part that they reach, or give another term a weight."
        )


def _terms(recipe: Recipe, hints: Hints, lesson: Lesson, task: str) -> frozenset[str]:
    """The terms of the task's loss that rows can have."""
    labelled = any(task in source.labels for source in recipe.data.values())
    taught = recipe.tasks[task].teacher is not None and recipe.training.teachers_on != "none"
    possible = {
        "supervised": labelled and lesson.weights.supervised > 0,
        "soft_targets": taught and lesson.weights.soft_targets > 0,
        "hint": taught and lesson.weights.hint > 0 and bool(hints.get(task)),
    }
    return frozenset(term for term, is_possible in possible.items() if is_possible)
