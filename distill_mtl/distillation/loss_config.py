"""How one task is learned: which terms, how soft, which layers. The part of a recipe that a loss reads."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from distill_mtl.recipe.schema import TermWeights


@dataclass(frozen=True)
class HintPair:
    """Names of the two layers that one hint ties together, and whether only the means of their maps are compared."""

    student: str
    teacher: str
    pooled: bool = False


@dataclass(frozen=True)
class LossConfig:
    """How one task is learned.

    Attributes:
        weights: of the terms supervised, soft_targets and hint.
        temperature: of the soft targets.
        hints: the pairs of layers, in the order of the task's adapters.
        known: positions of the classes that the teacher knows, where it does not know all of them.
    """

    weights: TermWeights = field(default_factory=TermWeights)
    temperature: float = 4.0
    hints: Sequence[HintPair] = ()
    known: tuple[int, ...] | None = None

    @property
    def uses_labels(self) -> bool:
        """A label of this task changes its loss."""
        return self.weights.supervised > 0

    @property
    def uses_teacher(self) -> bool:
        """A teacher's output changes this task's loss."""
        return self.weights.soft_targets > 0 or (self.weights.hint > 0 and len(self.hints) > 0)
