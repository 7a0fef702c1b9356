"""Weights that the user chose, the same in every step."""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from distill_mtl.balance.loss_rule import LossRule
from distill_mtl.balance.registry import register
from distill_mtl.balance.rule import total_of


@register("fixed")
class Fixed(LossRule):
    """Σ weight · loss.

    Args:
        tasks: names of all tasks.
        weights: one finite weight ≥ 0 per task, by name.

    Raises:
        ValueError: a task without a weight, a weight without a task, or a weight that makes no sense.
    """

    def __init__(self, tasks: Sequence[str], weights: Mapping[str, float]) -> None:
        super().__init__(tasks)
        missing, unknown = sorted(set(tasks) - set(weights)), sorted(set(weights) - set(tasks))
        if missing or unknown:
            raise ValueError(
                f"fixed weights must name every task once; without a weight: {missing}, not a task: {unknown}"
            )
        wrong = {task: weight for task, weight in weights.items() if not 0 <= float(weight) < math.inf}
        if wrong:
            raise ValueError(f"fixed weights must be finite and not negative, got {wrong}")
        self.weights = {task: float(weights[task]) for task in tasks}

    def objective(self, losses: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        weights = {task: self.weights[task] for task in losses}
        return total_of(weight * losses[task] for task, weight in weights.items()), weights
