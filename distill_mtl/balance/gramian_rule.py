"""Rules that weight the tasks' gradients at the cut, from their Gramian; each head keeps its own gradient.

On a tree every node has a Gramian and weights of its own, over the tasks that run through it.
`Weighting` makes such a rule of any function from a Gramian to weights.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from distill_mtl.balance.distributed import from_first, global_means
from distill_mtl.balance.parameter_gradients import parameter_gramians
from distill_mtl.balance.rule import Backward, Rule, flat, plain_backward, total_of
from distill_mtl.balance.shared import Shared
from distill_mtl.balance.tree import Tree

Normalize = Literal["none", "l2", "loss", "loss+"]
Scale = float | Literal["tasks"]


class GramianRule(Rule):
    """A rule that chooses weights from a Gramian. A child says how: `choose`.

    Args:
        tasks: names of all tasks; only needed to refuse unknown ones.
        normalize: what gradients are divided by before they are compared *and* combined: nothing, their
            norm (l2), their loss, or both (loss+). The sizes are divided by their geometric mean first,
            so that loss scales and units drop out.
        scale: factor on the chosen weights; "tasks" is the number of tasks present, on a tree of those
            that run through the node.

    A task whose gradient is zero cannot be hurt to first order, so it is left out with weight 0. Where a
    gradient is not finite the weights are even: a gradient scaler will skip the step.
    """

    def __init__(
        self,
        tasks: Sequence[str] = (),
        *,
        normalize: Normalize = "none",
        scale: Scale = 1.0,
    ) -> None:
        super().__init__(tasks)
        if normalize not in get_args(Normalize):
            raise ValueError(f"normalize is one of {list(get_args(Normalize))}, got {normalize!r}")
        if scale != "tasks" and not (isinstance(scale, int | float) and 0 < scale < float("inf")):
            raise ValueError(f"scale is a number above 0 or 'tasks', got {scale!r}")
        self.normalize, self.scale = normalize, scale

    @abstractmethod
    def choose(self, gramian: Tensor, tasks: Sequence[str]) -> Tensor:
        """Weights [T] from the Gramian (float64, CPU, finite, no zero gradient) of the named tasks."""

    def backward(
        self,
        losses: Mapping[str, Tensor],
        shared: Shared | Tree | None,
        backward: Backward = plain_backward,
        *,
        parameters: Iterable[nn.Parameter] | None = None,
    ) -> dict[str, float]:
        tasks = self.present(losses, shared)
        if shared is None:
            raise ValueError(
                f"{type(self).__name__} compares gradients at shared features, but there are none; for a "
                "network without one shared representation use mgda or a rule that weights losses"
            )
        tree = Tree.of(shared)
        if not tree.nodes:
            raise ValueError(
                f"{type(self).__name__} compares gradients at shared features, and no two tasks read the same ones "
                "here; use mgda, or a rule that weights losses"
            )
        tree.backward_heads(total_of(losses[task] for task in tasks), backward)
        gramians = tree.gramians(tasks)
        weights = {
            node: self.weigh(products, {task: losses[task] for task in tree.at(node, tasks)})
            for node, products in gramians.items()
        }
        harm = parameter_gramians(tree, tasks) if self.measure_harm else None
        self.note(gramians, weights, harm)
        tree.backward(weights)
        return flat(weights)

    def weigh(self, gramian: Tensor, losses: Mapping[str, Tensor]) -> dict[str, float]:
        """The weight of each task's gradient, zero and non-finite gradients taken care of."""
        tasks = list(losses)
        products = gramian.numpy()
        factor = float(len(tasks) if self.scale == "tasks" else self.scale)
        sizes = self._sizes(products, losses)
        if not (np.isfinite(products).all() and np.isfinite(sizes).all()):
            return dict.fromkeys(tasks, factor / len(tasks))
        moving = np.flatnonzero(products.diagonal() > 0)
        weights = np.zeros(len(tasks))
        if len(moving):
            share = np.exp(np.log(sizes[moving]).mean()) / sizes[moving]
            scaled = products[np.ix_(moving, moving)] * share * share[:, None]
            chosen = self.choose(torch.from_numpy(scaled), [tasks[t] for t in moving])
            weights[moving] = chosen.detach().cpu().double().numpy() * share
        return {task: factor * float(weight) for task, weight in zip(tasks, weights, strict=True)}

    def _sizes(self, products: np.ndarray, losses: Mapping[str, Tensor]) -> np.ndarray:
        """[T], what each gradient is divided by."""
        sizes = np.ones(len(losses))
        if self.normalize in ("loss", "loss+"):
            means = global_means(list(losses.values())).abs().numpy()
            sizes = sizes * np.maximum(means, np.finfo(np.float32).tiny)
        if self.normalize in ("l2", "loss+"):
            sizes = sizes * np.sqrt(products.diagonal())
        return sizes


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
        scale: Scale = 1.0,
    ) -> None:
        super().__init__(tasks, normalize=normalize, scale=scale)
        self.weighting = weighting

    def choose(self, gramian: Tensor, tasks: Sequence[str]) -> Tensor:
        weights = self.weighting(gramian).detach().to(gramian).reshape(-1)
        if weights.shape != (len(tasks),) or not weights.isfinite().all():
            raise ValueError(f"the weighting must give {len(tasks)} finite numbers, got {weights.tolist()}")
        return from_first(weights)
