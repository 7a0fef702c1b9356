"""How the tasks are learned at each step of a run: one stage after the other, each with its own lessons.

FitNets' two stages (Romero et al. 2015, algorithm 1) are a schedule of two: hints alone up to the guided
layer, then everything. Without a schedule a run is one stage.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distill_mtl.distillation.lesson import Lesson


@dataclass(frozen=True)
class Stage:
    """What is learned between two steps.

    Attributes:
        ends: the first step after it.
        lessons: task -> how it is learned; the pairs of layers are the same in all stages.
        trains: names of the parameters that train, as `Objective` has them; None: all.
    """

    ends: int
    lessons: Mapping[str, Lesson]
    trains: frozenset[str] | None = None

    @property
    def taught(self) -> frozenset[str]:
        """The tasks whose loss uses a teacher's answer."""
        return frozenset(task for task, lesson in self.lessons.items() if lesson.uses_teacher)


class Schedule:
    """The stages of a run, a pure function of the step, so that resuming needs no state.

    Args:
        stages: at least one, each ending after the one before.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = tuple(stages)
        self._ends = [stage.ends for stage in stages]

    @classmethod
    def constant(cls, lessons: Mapping[str, Lesson], steps: int) -> "Schedule":
        """The same lessons from the first step to the last."""
        return cls([Stage(steps, lessons)])

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self._ends[-1]

    def at(self, step: int) -> Stage:
        """The stage of step `step`, counted from 0."""
        return self.stages[min(bisect_right(self._ends, step), len(self.stages) - 1)]

    def asks_teacher(self, task: str) -> bool:
        """Whether in any stage a teacher's answer changes the task's loss."""
        return any(task in stage.taught for stage in self.stages)
