"""The plain sum of the task losses."""

from collections.abc import Mapping

from torch import Tensor

from distill_mtl.balance.loss_rule import LossRule
from distill_mtl.balance.registry import register
from distill_mtl.balance.rule import total_of


@register("uniform")
class Uniform(LossRule):
    """Every task's loss counts once."""

    def objective(self, losses: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        return total_of(losses.values()), dict.fromkeys(losses, 1.0)
