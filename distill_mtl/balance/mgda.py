"""MGDA and MGDA-UB: the direction that hurts no task, from the minimum-norm point of the tasks' gradients.

`mgda_ub` compares gradients at the shared features, in one pass; `mgda` at the shared parameters, in T passes.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

import torch
from torch import Tensor, nn

from distill_mtl.balance.gramian_rule import GramianRule, Normalize, Scale
from distill_mtl.balance.min_norm import Method, solve
from distill_mtl.balance.parameter_gradients import (
    averaged,
    from_features,
    from_losses,
    loss_scale,
    mixture,
    products_of,
)
from distill_mtl.balance.preferences import among, parse_preferences
from distill_mtl.balance.rule import Backward, flat, plain_backward, register, total_of
from distill_mtl.balance.shared import Shared, leaves_of
from distill_mtl.balance.tree import ByNode, Tree

COMMON = "common"
"""In logs the name of what nodes of one task have in common."""


class MinNormRule(GramianRule):
    """A rule whose weights are those of the shortest vector in the hull of the gradients.

    Args:
        tasks: names of all tasks; needed for `prefer`.
        prefer: lines like "seg >= 2 * depth" on the weights of the (normalised) gradients; one that
            names an absent task holds for what follows through it. With them the direction hurts none of the mixtures
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
        scale: Scale = "tasks",
    ) -> None:
        super().__init__(tasks, normalize=normalize, scale=scale)
        if method not in get_args(Method):
            raise ValueError(f"method is one of {list(get_args(Method))}, got {method!r}")
        self.method = method
        self._bounds = parse_preferences([prefer] if isinstance(prefer, str) else prefer, self.tasks)

    def choose(self, gramian: Tensor, tasks: Sequence[str]) -> Tensor:
        bounds = among(self._bounds, [self.tasks.index(task) for task in tasks]) if self._bounds else None
        return solve(gramian, preferences=bounds, method=self.method).weights


@register("mgda_ub")
class MGDAUB(MinNormRule):
    """Sener & Koltun 2018, section 3.3: one backward through the heads, one through the trunk.

    Decides on gradients at the shared features, an upper bound of those in the parameters: where the
    trunk is ill-conditioned its direction may still hurt a task, which `mgda`'s cannot; `measure_harm`
    tells how often. It needs losses of all tasks on the same rows: gradients on different rows have no
    coordinate in common.

    The weights belong to the backward pass they were chosen in: with gradient accumulation each
    micro-batch has its own.
    """

    needs_coverage = True


@register("mgda")
class MGDA(MinNormRule):
    """Désidéri 2012; Sener & Koltun 2018, section 3.1, with each head's own gradient left unscaled.

    The gradients are those of the global batch (their mean over processes is taken before they are
    compared), so the step's gradient hurts no task to first order. What an optimizer with momentum or
    clipping makes of it is another matter.

    Without a cut (`shared=None`, or a tree on which no two tasks read the same features) it balances any set of
    `parameters` that tasks have in common, by a backward pass from each task's loss. With one it costs a pass through
    the heads and T through the trunk; on a tree each node is balanced by itself, and so are the parameters that nodes
    of one task have in common (`Tree.common`).
    """

    def backward(
        self,
        losses: Mapping[str, Tensor],
        shared: Shared | Tree | None,
        backward: Backward = plain_backward,
        *,
        parameters: Iterable[nn.Parameter] | None = None,
    ) -> dict[str, float]:
        tasks = self.present(losses, shared)
        ordered = {task: losses[task] for task in tasks}
        tree = None if shared is None else Tree.of(shared)
        if tree is None or not tree.nodes:
            common = tree.common if tree is not None and parameters is None else parameters
            if parameters is None and not common:
                raise ValueError(
                    "mgda without shared features needs parameters=: those that tasks have in common"
                )
            scale = loss_scale(next(iter(ordered.values())), backward)
            products, mixed = self._by_losses(ordered, _trainable(common or ()), scale)
            return self._say({"": products}, {"": mixed})
        weights: ByNode = {}
        found: dict[str, Tensor] = {}
        behind = [parameter for parameter in tree.common if parameter.requires_grad and parameters is None]
        if behind:
            tree.backward_heads(next(iter(ordered.values())).new_zeros(()), backward)
            found[COMMON], weights[COMMON] = self._by_losses(ordered, behind, tree.loss_scale)
        else:
            tree.backward_heads(total_of(ordered.values()), backward)
        tree.pass_on(tasks)
        given = None if parameters is None else {id(parameter) for parameter in _trainable(parameters)}
        for node in tree.nodes:
            present = tree.at(node, tasks)
            leaves = [leaf for leaf in tree.leaves(node) if given is None or id(leaf) in given]
            if not present:
                tree.nodes[node].backward({})  # other processes wait for its parameters
                continue
            gradients = from_features(tree.nodes[node], present, leaves, keep_graph=False)
            found[node] = products_of(gradients, tree.loss_scale)
            weights[node] = self.weigh(found[node], {task: ordered[task] for task in present})
            _hand_over(leaves, mixture(gradients, weights[node]))
        return self._say(found, weights)

    def _by_losses(
        self, losses: Mapping[str, Tensor], common: Sequence[Tensor], scale: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """Fill every gradient by a pass from each task's loss: at `common` with their mixture, elsewhere their sum.

        Returns:
            The Gramian of the tasks' gradients at `common`, and their weights.
        """
        known = {id(leaf) for leaf in common}
        others = [leaf for leaf in leaves_of(losses.values()) if id(leaf) not in known]
        gradients = from_losses(losses, [*common, *others], scale)
        at_common = averaged({task: found[: len(common)] for task, found in gradients.items()}, common)
        elsewhere = {task: found[len(common) :] for task, found in gradients.items()}
        products = products_of(at_common, scale)
        weights = self.weigh(products, losses)
        _hand_over(
            [*common, *others],
            [*mixture(at_common, weights), *mixture(elsewhere, dict.fromkeys(losses, 1.0))],
        )
        return products, weights

    def _say(self, found: dict[str, Tensor], weights: ByNode) -> dict[str, float]:
        self.note(found, weights, found if self.measure_harm else None)
        return flat(weights)


def _hand_over(leaves: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Add the gradients, and run what waits for them, such as the averaging of DistributedDataParallel, without another
    pass through the network."""
    pairs = [
        (leaf, gradient) for leaf, gradient in zip(leaves, gradients, strict=True) if gradient is not None
    ]
    if pairs:
        torch.autograd.backward([leaf for leaf, _ in pairs], [gradient for _, gradient in pairs])


def _trainable(parameters: Iterable[nn.Parameter]) -> Sequence[Tensor]:
    leaves = [parameter for parameter in parameters if parameter.requires_grad]
    if not leaves:
        raise ValueError("none of the given parameters is trainable")
    return leaves
