"""From a recipe to who speaks about rows without a label beside its teachers: former selves, and the gates."""

from collections.abc import Mapping
from dataclasses import dataclass

from distill_mtl.data import Sources
from distill_mtl.distillation.gate import Gate
from distill_mtl.distillation.lesson import Lesson
from distill_mtl.errors import RecipeError
from distill_mtl.recipe import Recipe
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.tasks.base import TaskKind

DECAY = 0.999
"""Of a former self that is an average, where the recipe says none."""
FREEZES = 10
"""How often a former self is frozen in a run that has no phases and says nothing else."""


@dataclass(frozen=True)
class Memory:
    """How a former self remembers the student.

    Attributes:
        every: steps between two freezes; None: the beginnings of `phases`.
        phases: the data sets of an alternating stream.
        decay: of the average; None: it is frozen.
    """

    every: int | None
    phases: Sources | None
    decay: float | None

    def due(self, step: int) -> bool:
        """Whether the student is frozen before a step; an average speaks from the first such step on."""
        if self.every is not None:
            return step % self.every == 0
        return self.phases is not None and self.phases.phase_begins(step)

    def describe(self) -> str:
        """One clause for people."""
        when = "at the beginning of each phase" if self.every is None else f"every {self.every} steps"
        if self.decay is None:
            return f"frozen {when}"
        since = "from the second phase on" if self.every is None else f"from step {self.every} on"
        return f"an average (decay {self.decay:g}) that speaks {since}"


def former_selves(recipe: Recipe) -> dict[str, TeacherSection]:
    """task -> what its recipe says, of the tasks that the student's former self teaches."""
    return {
        task: section.teacher
        for task, section in recipe.tasks.items()
        if section.teacher is not None and section.teacher.student is not None
    }


def memories(recipe: Recipe, sources: Sources, steps: int) -> dict[Memory, list[str]]:
    """The former selves that a run needs, and the tasks of each: those that remember alike share one.

    Where the recipe names no `every`, the student is frozen at the beginning of each phase of an alternating
    stream, else ten times in the run. Phases of a single step do not count: a student that has just been
    frozen has nothing to learn from itself.

    Args:
        recipe: as loaded.
        sources: which know the phases.
        steps: of the run.

    Raises:
        RecipeError: a former self would never speak.
    """
    found: dict[Memory, list[str]] = {}
    for task, section in former_selves(recipe).items():
        every, phases, length = section.every, None, sources.phase_length or 1
        if every is None and length > 1:
            phases = sources
        first = every or length
        if first >= steps and first > 1:
            where = f"tasks.{task}.teacher.every" if every is not None else "training.stream.phase"
            raise RecipeError(
                f"{where}: the former self that teaches {task} would be frozen before step {first} for the first time, "
                f"and the run has {steps} steps. Choose fewer steps there."
            )
        if every is None and phases is None:
            every = max(1, round(steps / FREEZES))
        decay = (section.decay or DECAY) if section.student == "ema" else None
        found.setdefault(Memory(every, phases, decay), []).append(task)
    return found


def gates(recipe: Recipe, lessons: Mapping[str, Lesson], kinds: Mapping[str, TaskKind]) -> dict[str, Gate]:
    """task -> on which rows its teacher is heard, where the recipe says.

    Raises:
        RecipeError: a task's answers are no softmax, which has the entropy and the confidence.
    """
    found = {}
    for task, section in recipe.tasks.items():
        if section.gate is None:
            continue
        if not kinds[task].exclusive:
            raise RecipeError(
                f"tasks.{task}.gate: answers of kind {kinds[task].name} are no softmax over classes, so a teacher's "
                "doubt cannot be read from them. Remove `gate`."
            )
        known = lessons[task].known
        if section.gate.entropy is not None:
            found[task] = Gate("entropy", section.gate.entropy, known)
        elif section.gate.confidence is not None:
            found[task] = Gate("confidence", section.gate.confidence, known)
    return found
