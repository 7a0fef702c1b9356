"""Each task's gradient at shared parameters, over the global batch: what `mgda` compares and others report.

Taken with `torch.autograd.grad`, which leaves `.grad` alone and does not wake DistributedDataParallel, so
the mean over processes is taken here.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from distill_mtl.balance.distributed import all_sum, world_size
from distill_mtl.balance.gramian import gramian
from distill_mtl.balance.rule import Backward
from distill_mtl.balance.shared import Shared
from distill_mtl.balance.tree import Tree

Gradients = dict[str, list[Tensor | None]]
"""By task, a gradient per parameter; None where no loss reaches the parameter."""


def from_features(
    shared: Shared, tasks: Sequence[str], parameters: Sequence[Tensor], *, keep_graph: bool
) -> Gradients:
    """By one pass per task from the features on, after `shared.backward_heads`. Loss scales stay in.

    Args:
        shared: the cut.
        tasks: whose gradients to take.
        parameters: where to take them.
        keep_graph: leave the trunk's graph for another backward pass.
    """
    if not parameters:
        return {task: [] for task in tasks}
    places = [k for k, feature in enumerate(shared.features) if feature.requires_grad]
    gradients: Gradients = {}
    for task in tasks:
        at_features = shared.gradients(task)
        found = torch.autograd.grad(
            [shared.features[k] for k in places],
            parameters,
            [at_features[k] for k in places],
            retain_graph=keep_graph or task != tasks[-1],
            allow_unused=True,
        )
        gradients[task] = list(found)
    return averaged(gradients, parameters)


def from_losses(losses: Mapping[str, Tensor], parameters: Sequence[Tensor], scale: Tensor) -> Gradients:
    """By one pass per task from its loss on, times `scale`; those of this process."""
    gradients: Gradients = {}
    for task, loss in losses.items():
        if loss.requires_grad:
            scaled = loss * scale.to(loss.dtype)
            gradients[task] = list(
                torch.autograd.grad(scaled, parameters, retain_graph=True, allow_unused=True)
            )
        else:
            gradients[task] = [None] * len(parameters)
    return gradients


def products_of(gradients: Gradients, scale: Tensor) -> Tensor:
    """float64 [T, T] on the CPU: the Gramian of the gradients, with the loss scale divided out."""
    products = gramian(list(gradients.values()))
    return (products / scale.to(products.device, products.dtype) ** 2).to("cpu", torch.float64)


def parameter_gramians(
    tree: Tree, tasks: Sequence[str], parameters: Sequence[Tensor] | None = None
) -> dict[str, Tensor]:
    """By node float64 [t, t] on the CPU: the Gramian at its own parameters, or at `parameters`; keeps the graph."""
    tree.pass_on(tasks)
    return {
        name: products_of(
            from_features(
                node,
                tree.at(name, tasks),
                tree.leaves(name) if parameters is None else parameters,
                keep_graph=True,
            ),
            tree.loss_scale,
        )
        for name, node in tree.nodes.items()
        if tree.at(name, tasks)
    }


def loss_scale(like: Tensor, backward: Backward) -> Tensor:
    """The factor that `backward` puts on gradients (gradient scaler, accumulation), found by trying it."""
    unit = torch.zeros((), device=like.device, requires_grad=True)
    backward(unit * 1.0)
    return torch.ones_like(unit) if unit.grad is None else unit.grad


def mixture(gradients: Gradients, weights: Mapping[str, float]) -> list[Tensor | None]:
    """Σ weight · gradient by parameter; None where no task reaches the parameter."""
    mixed: list[Tensor | None] = []
    for parts in zip(*(gradients[task] for task in weights), strict=True):
        total: Tensor | None = None
        for weight, part in zip(weights.values(), parts, strict=True):
            if part is not None:
                total = part * weight if total is None else total.add_(part, alpha=weight)
        mixed.append(total)
    return mixed


def averaged(gradients: Gradients, parameters: Sequence[Tensor]) -> Gradients:
    """The mean over processes, one collective per task and type of number."""
    processes = world_size()
    if processes == 1:
        return gradients
    for found in gradients.values():
        dense = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
        for dtype in sorted({g.dtype for g in dense}, key=str):
            places = [k for k, g in enumerate(dense) if g.dtype == dtype]
            flat = all_sum(torch.cat([dense[k].reshape(-1) for k in places])) / processes
            pieces = flat.split([dense[k].numel() for k in places])
            for k, piece in zip(places, pieces, strict=True):
                found[k] = piece.view_as(dense[k])
    return gradients
