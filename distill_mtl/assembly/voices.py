"""From a recipe to who speaks about rows without a label: its teachers, the student's former self, the gates."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from distill_mtl.distillation.former_self import FormerSelf
from distill_mtl.distillation.gate import Gate
from distill_mtl.distillation.lesson import Lesson
from distill_mtl.distillation.voices import Voices
from distill_mtl.recipe import Recipe
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.students.student import Student
from distill_mtl.teachers.live import LiveTeachers

DECAY = 0.999
"""Of a former self that is an average, where the recipe says none."""
FREEZES = 10
"""How often a former self is frozen in a run that has no phases and says nothing else."""


def gather_voices(
    recipe: Recipe,
    teachers: LiveTeachers,
    student: Student,
    lessons: Mapping[str, Lesson],
    steps: int,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Voices:
    """Everyone whom training asks.

    Args:
        recipe: as loaded.
        teachers: on their device.
        student: that trains, on its device, before it is prepared.
        lessons: task -> how it is learned.
        steps: of the run.
        autocast: makes the context in which the student runs.
    """
    by_way: dict[tuple[int | None, float | None], list[str]] = {}
    for task, section in former_selves(recipe).items():
        decay = (section.decay or DECAY) if section.student == "ema" else None
        by_way.setdefault((section.every, decay), []).append(task)
    selves = [
        FormerSelf(
            student,
            tasks,
            _due(every, steps),
            decay=decay,
            on=recipe.training.teachers_on,
            autocast=autocast,
        )
        for (every, decay), tasks in by_way.items()
    ]
    return Voices(teachers, selves, _gates(recipe, lessons))


def former_selves(recipe: Recipe) -> dict[str, TeacherSection]:
    """task -> what its recipe says, of the tasks that the student's former self teaches."""
    return {
        task: section.teacher
        for task, section in recipe.tasks.items()
        if section.teacher is not None and section.teacher.student is not None
    }


def _due(every: int | None, steps: int) -> Callable[[int], bool]:
    every = every or max(1, round(steps / FREEZES))
    return lambda step: step % every == 0


def _gates(recipe: Recipe, lessons: Mapping[str, Lesson]) -> dict[str, Gate]:
    gates = {}
    for task, section in recipe.tasks.items():
        if section.gate is None:
            continue
        known = lessons[task].known
        if section.gate.entropy is not None:
            gates[task] = Gate("entropy", section.gate.entropy, known)
        elif section.gate.confidence is not None:
            gates[task] = Gate("confidence", section.gate.confidence, known)
    return gates
