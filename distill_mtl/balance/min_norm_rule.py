"""What `mgda` and `mgda_ub` share: the weights of the minimum-norm point, and the options that bend it."""

from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor

from distill_mtl.balance.gramian_rule import GramianRule, Normalize
from distill_mtl.balance.min_norm import Method, solve
from distill_mtl.balance.preferences import among, parse_preferences


class MinNormRule(GramianRule):
    """A rule whose weights are those of the shortest vector in the hull of the gradients.

    Args:
        tasks: names of all tasks; needed for `prefer`.
        prefer: lines like "seg >= 2 * depth" on the weights of the (normalised) gradients; one that
            names an absent task drops for the step. With them the direction hurts none of the mixtures
            that the preferences leave (2/3 seg + 1/3 depth), but may hurt a single task.
        method: how `min_norm.solve` finds the point.
        normalize: see `GramianRule`. "l2" by default: unnormalised, the shortest vector follows the task with the
            smallest gradient and starves the rest (benchmarks/README.md); any choice hurts no task to first order.
        scale: factor on the weights, which sum to 1 before it; "tasks", the number of tasks, makes the
            step as long as that of the plain sum where gradients agree. It is the default because it was
            better under SGD and no worse under AdamW, which hardly sees the factor.
    """

    def __init__(
        self,
        tasks: Sequence[str] = (),
        *,
        prefer: Sequence[str] = (),
        method: Method = "exact",
        normalize: Normalize = "l2",
        scale: float | Literal["tasks"] = "tasks",
    ) -> None:
        super().__init__(tasks, normalize=normalize, scale=scale)
        if method not in get_args(Method):
            raise ValueError(f"method is one of {list(get_args(Method))}, got {method!r}")
        self.method = method
        self._bounds = parse_preferences([prefer] if isinstance(prefer, str) else prefer, self.tasks)

    def choose(self, gramian: Tensor, tasks: Sequence[str]) -> Tensor:
        bounds = among(self._bounds, [self.tasks.index(task) for task in tasks]) if self._bounds else None
        return solve(gramian, preferences=bounds, method=self.method).weights
