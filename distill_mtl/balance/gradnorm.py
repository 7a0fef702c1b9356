"""GradNorm: loss weights that balance the tasks' gradient norms by their rates of learning."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from distill_mtl.balance.distributed import global_means
from distill_mtl.balance.loss_rule import LossRule
from distill_mtl.balance.parameter_gradients import parameter_gramians
from distill_mtl.balance.rule import Backward, plain_backward, register, total_of
from distill_mtl.balance.shared import Shared
from distill_mtl.balance.tree import Tree


@register("gradnorm")
class GradNorm(LossRule):
    """Chen, Badrinarayanan, Lee & Rabinovich 2018, algorithm 1.

    Weighted gradient norms G_t are pulled towards mean(G) · r_t^alpha, where r_t is the task's loss
    relative to its first value, divided by the mean of that over tasks. The paper hands the gradient of
    Σ |G_t - target_t| to Adam, which keeps little more than its sign; here the sign moves log w_t by
    `lr`, so that weights stay positive whatever the scales. Their sum is the number of tasks.

    Norms are taken at the shared features (the output of the last shared layer), which costs nothing; or
    at the last shared layer's weights, as in the paper, if `backward` is given them as `parameters`. On a tree they
    are those of the first node, which all tasks run through.

    Args:
        tasks: names of all tasks.
        alpha: restoring force; larger where tasks differ more in how fast they learn.
        lr: largest relative change of a weight per step.
        warmup: number of a task's first steps whose mean loss counts as its first value.
    """

    weights: Tensor
    first_losses: Tensor
    seen: Tensor

    def __init__(
        self, tasks: Sequence[str], *, alpha: float = 1.5, lr: float = 0.025, warmup: int = 10
    ) -> None:
        super().__init__(tasks)
        if not self.tasks:
            raise ValueError("gradnorm needs the names of all tasks")
        if not (alpha >= 0 and 0 < lr < 1 and warmup >= 1):
            raise ValueError(
                f"gradnorm needs alpha >= 0, 0 < lr < 1, warmup >= 1; got {alpha}, {lr}, {warmup}"
            )
        self.alpha, self.lr, self.warmup = alpha, lr, warmup
        self.register_buffer("weights", torch.ones(len(self.tasks)))
        self.register_buffer("first_losses", torch.zeros(len(self.tasks)))
        self.register_buffer("seen", torch.zeros(len(self.tasks), dtype=torch.long))

    def backward(
        self,
        losses: Mapping[str, Tensor],
        shared: Shared | Tree | None,
        backward: Backward = plain_backward,
        *,
        parameters: Iterable[nn.Parameter] | None = None,
    ) -> dict[str, float]:
        if shared is None:
            raise ValueError("gradnorm compares gradients at shared features, but there are none")
        return super().backward(losses, shared, backward, parameters=parameters)

    def objective(self, losses: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        known = dict(zip(self.tasks, self.weights.tolist(), strict=True))
        weights = {task: known[task] for task in losses}
        return total_of(weight * losses[task] for task, weight in weights.items()), weights

    def measure(
        self, tree: Tree, losses: Mapping[str, Tensor], parameters: Iterable[nn.Parameter] | None
    ) -> dict[str, Tensor]:
        """The Gramians of the weighted gradients; the next step's weights follow from the first node's."""
        products = tree.gramians(list(losses))
        first = next(iter(products), "")
        if len(products.get(first, ())) != len(losses):
            raise ValueError(
                "gradnorm compares gradients at features that all tasks read, but there are none"
            )
        norms = products[first].diagonal()
        if parameters is not None:
            norms = parameter_gramians(tree, list(losses), list(parameters))[first].diagonal()
        self._learn(norms.sqrt(), global_means(list(losses.values())), [self.tasks.index(t) for t in losses])
        return products

    def _learn(self, norms: Tensor, losses: Tensor, at: list[int]) -> None:
        """One step of the weights of the tasks `at`, from what the global batch measured (float64 [t])."""
        if not (norms.isfinite().all() and losses.isfinite().all()):
            return
        weights, first, seen = (buffer.cpu()[at] for buffer in (self.weights, self.first_losses, self.seen))
        first = torch.where(seen < self.warmup, (first * seen + losses) / (seen + 1), first.double())
        progress = losses / first.clamp(min=1e-12)
        target = norms.mean() * (progress / progress.mean().clamp(min=1e-12)) ** self.alpha
        moved = weights.double() * torch.exp(-self.lr * torch.sign(norms - target))
        moved = moved * (weights.double().sum() / moved.sum())
        for buffer, values in ((self.weights, moved), (self.first_losses, first), (self.seen, seen + 1)):
            buffer[at] = values.to(buffer.device, buffer.dtype)
