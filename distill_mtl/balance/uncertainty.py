"""Homoscedastic uncertainty, and the geometric mean of losses that it becomes once it is solved for.

`uncertainty` weights each task's loss by a noise level that is learned with it; `geometric` learns nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from distill_mtl.balance.distributed import global_means
from distill_mtl.balance.loss_rule import LossRule
from distill_mtl.balance.rule import Backward, plain_backward, register, total_of
from distill_mtl.balance.shared import Shared
from distill_mtl.balance.tree import Tree

Likelihood = Literal["softmax", "gaussian"]
FACTORS: dict[str, float] = {"softmax": 1.0, "gaussian": 0.5}
FLOOR = 1e-8


@register("uncertainty")
class Uncertainty(LossRule):
    """Kendall, Gal & Cipolla 2018, section 3.2, with s = log σ² learned, for stability.

    Descends Σ c·exp(-s_t)·loss_t + s_t / 2, where c is 1 for a softmax likelihood (classes, soft targets;
    equation 10) and 1/2 for a Gaussian one (regression, hints; equation 7). It may become negative. Put
    `rule.parameters()` into a group of the optimizer, without weight decay.

    Args:
        tasks: names of all tasks.
        likelihoods: "gaussian" or "softmax" by task; softmax where none is named.
    """

    def __init__(self, tasks: Sequence[str], *, likelihoods: Mapping[str, Likelihood] | None = None) -> None:
        super().__init__(tasks)
        likelihoods = likelihoods or {}
        unknown = sorted(set(likelihoods) - set(self.tasks))
        wrong = sorted(set(likelihoods.values()) - set(FACTORS))
        if not self.tasks or unknown or wrong:
            raise ValueError(
                f"uncertainty has the tasks {list(self.tasks)} and likelihoods {list(FACTORS)}; "
                f"not a task: {unknown}, not a likelihood: {wrong}"
            )
        self.factors = {task: FACTORS[likelihoods.get(task, "softmax")] for task in self.tasks}
        self.log_variances = nn.ParameterList(nn.Parameter(torch.zeros(())) for _ in self.tasks)

    def objective(self, losses: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        logs = dict(zip(self.tasks, self.log_variances, strict=True))
        terms = [self.factors[t] * torch.exp(-logs[t]) * loss + logs[t] / 2 for t, loss in losses.items()]
        # Every parameter takes part, so that DistributedDataParallel does not wait for one.
        terms += [0 * log for task, log in logs.items() if task not in losses]
        values = torch.stack([logs[task].detach() for task in losses]).neg().exp().tolist()
        return total_of(terms), {t: self.factors[t] * value for t, value in zip(losses, values, strict=True)}

    def backward(
        self,
        losses: Mapping[str, Tensor],
        shared: Shared | Tree | None,
        backward: Backward = plain_backward,
        *,
        parameters: Iterable[nn.Parameter] | None = None,
    ) -> dict[str, float]:
        untouched = [
            log
            for task, log in zip(self.tasks, self.log_variances, strict=True)
            if task not in losses and log.grad is None
        ]
        weights = super().backward(losses, shared, backward, parameters=parameters)
        for log in untouched:
            log.grad = None  # or an optimizer with momentum would move an absent task's noise level
        return weights


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
