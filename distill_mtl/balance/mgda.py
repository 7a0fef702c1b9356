"""MGDA: the direction that hurts no task, found at the shared parameters in T backward passes."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from distill_mtl.balance.min_norm_rule import MinNormRule
from distill_mtl.balance.parameter_gradients import (
    Gradients,
    from_features,
    from_losses,
    loss_scale,
    mixture,
    products_of,
)
from distill_mtl.balance.registry import register
from distill_mtl.balance.rule import Backward, Diagnostics, plain_backward, total_of
from distill_mtl.balance.shared import Shared


@register("mgda")
class MGDA(MinNormRule):
    """Désidéri 2012; Sener & Koltun 2018, section 3.1, with each head's own gradient left unscaled.

    The gradients are those of the global batch (their mean over processes is taken before they are
    compared), so the step's gradient hurts no task to first order. What an optimizer with momentum or
    clipping makes of it is another matter.

    Without a cut (`shared=None`) it balances any set of `parameters` that tasks have in common, for T + 1
    backward passes. With one it costs a pass through the heads and T through the trunk.
    """

    def backward(
        self,
        losses: Mapping[str, Tensor],
        shared: Shared | None,
        backward: Backward = plain_backward,
        *,
        parameters: Iterable[nn.Parameter] | None = None,
    ) -> dict[str, float]:
        tasks = self.present(losses, shared)
        ordered = {task: losses[task] for task in tasks}
        if shared is None:
            return self._without_cut(ordered, backward, parameters)
        shared.backward_heads(total_of(ordered.values()), backward)
        leaves = shared.leaves() if parameters is None else _trainable(parameters)
        gradients = from_features(shared, tasks, leaves, keep_graph=False)
        weights = self._balance(gradients, ordered, shared.loss_scale)
        # Handing the mixture to the parameters themselves runs what waits for their gradients, such as
        # the averaging of DistributedDataParallel, without another pass through the trunk.
        pairs = [(p, g) for p, g in zip(leaves, mixture(gradients, weights), strict=True) if g is not None]
        if pairs:
            torch.autograd.backward([p for p, _ in pairs], [g for _, g in pairs])
        return weights

    def _without_cut(
        self, losses: Mapping[str, Tensor], backward: Backward, parameters: Iterable[nn.Parameter] | None
    ) -> dict[str, float]:
        """Heads and everything else first by the sum of the losses; then the shared part is replaced."""
        if parameters is None:
            raise ValueError(
                "mgda without shared features needs parameters=: those that tasks have in common"
            )
        leaves = _trainable(parameters)
        before = [None if leaf.grad is None else leaf.grad.clone() for leaf in leaves]
        scale = loss_scale(next(iter(losses.values())), backward)
        gradients = from_losses(losses, leaves, scale)
        backward(total_of(losses.values()))
        weights = self._balance(gradients, losses, scale)
        for leaf, old, new in zip(leaves, before, mixture(gradients, weights), strict=True):
            if new is not None and leaf.grad is not None:
                leaf.grad.copy_(new if old is None else old + new)
        return weights

    def _balance(self, gradients: Gradients, losses: Mapping[str, Tensor], scale: Tensor) -> dict[str, float]:
        products = products_of(gradients, scale)
        weights = self.weigh(products, losses)
        self.diagnostics = Diagnostics.of(products, weights, products if self.measure_harm else None)
        return weights


def _trainable(parameters: Iterable[nn.Parameter]) -> Sequence[Tensor]:
    leaves = [parameter for parameter in parameters if parameter.requires_grad]
    if not leaves:
        raise ValueError("none of the given parameters is trainable")
    return leaves
