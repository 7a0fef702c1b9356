"""The geometric mean of the task losses: what learned uncertainties become once they are solved for."""

from collections.abc import Mapping

from torch import Tensor

from distill_mtl.balance.distributed import global_means
from distill_mtl.balance.loss_rule import LossRule
from distill_mtl.balance.registry import register
from distill_mtl.balance.rule import total_of

FLOOR = 1e-8


@register("geometric")
class Geometric(LossRule):
    """Descends exp(mean(log(loss + 1e-8))), which is indifferent to the losses' units.

    Setting the derivative of Kendall's objective by σ² to zero leaves Σ log loss (the closed form); its
    exponential mean keeps the size of a loss. It only makes sense for losses whose floor is 0: a
    divergence from soft targets, not their cross-entropy. The weight of a task is mean / (T · loss), from
    losses that are averaged over processes.

    Raises (backward):
        ValueError: a negative loss.
    """

    def objective(self, losses: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        means = global_means(list(losses.values()))
        count = len(means)
        negative = {task: float(mean) for task, mean in zip(losses, means, strict=True) if mean < -1e-6}
        if negative:
            raise ValueError(f"a geometric mean needs losses that are not negative, got {negative}")
        means = means.clamp(min=0) + FLOOR
        values = means.log().mean().exp() / (count * means)
        if not means.isfinite().all():
            values = values.new_full((count,), 1 / count)
        weights = dict(zip(losses, values.tolist(), strict=True))
        return total_of(weight * losses[task] for task, weight in weights.items()), weights
