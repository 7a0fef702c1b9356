"""Any function from a Gramian to weights as a balancing rule, at the cost of one pass."""

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor

from distill_mtl.balance.distributed import from_first
from distill_mtl.balance.gramian_rule import GramianRule, Normalize


class Weighting(GramianRule):
    """Weights from a callable of your own.

    Args:
        weighting: takes the Gramian (float64 [T, T], CPU) of the tasks present, in the order of `tasks`,
            returns [T]. It may draw random numbers: all processes take the first one's weights. If it is
            a module, its buffers are saved with the rule's.
        tasks: names of all tasks.
        normalize: see `GramianRule`.
        scale: factor on the weights.

    Raises (backward):
        ValueError: what came back is not T finite numbers.
    """

    needs_coverage = True

    def __init__(
        self,
        weighting: Callable[[Tensor], Tensor],
        tasks: Sequence[str] = (),
        *,
        normalize: Normalize = "none",
        scale: float | Literal["tasks"] = 1.0,
    ) -> None:
        super().__init__(tasks, normalize=normalize, scale=scale)
        self.weighting = weighting

    def choose(self, gramian: Tensor, tasks: Sequence[str]) -> Tensor:
        weights = self.weighting(gramian).detach().to(gramian).reshape(-1)
        if weights.shape != (len(tasks),) or not weights.isfinite().all():
            raise ValueError(f"the weighting must give {len(tasks)} finite numbers, got {weights.tolist()}")
        return from_first(weights)
