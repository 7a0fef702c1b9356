"""Rules that weight the tasks' gradients at the cut, from their Gramian; each head keeps its own gradient.

On a tree every node has a Gramian and weights of its own, over the tasks that run through it.
`Weighting` makes such a rule of any function from a Gramian to weights.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from distill_mtl.balance.distributed import from_first, global_means
from distill_mtl.balance.parameter_gradients import parameter_gramians
from distill_mtl.balance.rule import Backward, Diagnostics, Rule, flat, plain_backward, total_of
from distill_mtl.balance.shared import Shared
from distill_mtl.balance.tree import Tree

Normalize = Literal["none", "l2", "loss", "loss+"]
Scale = float | Literal["tasks", "sum"]
When = Literal["always", "conflict"]
_LONGEST = 10.0
"""With `scale: sum` no weight is raised by more than so many times the number of tasks: opposed gradients cancel."""


class GramianRule(Rule):
    """A rule that chooses weights from a Gramian. A child says how: `choose`.

    Args:
        tasks: names of all tasks; only needed to refuse unknown ones.
        normalize: what gradients are divided by before they are compared *and* combined: nothing, their
            norm (l2), their loss, or both (loss+). The sizes are divided by their geometric mean first,
            so that loss scales and units drop out.
        scale: factor on the chosen weights; "tasks" is the number of tasks present, on a tree of those
            that run through the node; "sum" makes the step as long as that of the plain sum of the gradients.
        smooth: decay of a running mean of the Gramian, over backward passes, from which sizes and weights
            are chosen; 0 takes the present one. A batch's Gramian is noisy, and so are weights from it.
        when: "conflict" chooses weights only while tasks conflict (their mean cosine is below 0), and takes the
            plain sum of the gradients else.

    A task whose gradient is zero cannot be hurt to first order, so it is left out with weight 0. Where a
    gradient is not finite the weights are even: a gradient scaler will skip the step.
    """

    def __init__(
        self,
        tasks: Sequence[str] = (),
        *,
        normalize: Normalize = "none",
        scale: Scale = 1.0,
        smooth: float = 0.0,
        when: When = "always",
    ) -> None:
        super().__init__(tasks)
        for name, value, known in (("normalize", normalize, Normalize), ("when", when, When)):
            if value not in get_args(known):
                raise ValueError(f"{name} is one of {list(get_args(known))}, got {value!r}")
        if scale not in ("tasks", "sum") and not (
            isinstance(scale, int | float) and 0 < scale < float("inf")
        ):
            raise ValueError(f"scale is a number above 0, 'tasks' or 'sum', got {scale!r}")
        if not (isinstance(smooth, int | float) and 0 <= smooth < 1):
            raise ValueError(f"smooth is a number from 0 to below 1, got {smooth!r}")
        self.normalize, self.scale, self.when = normalize, scale, when
        self.running = RunningGramians(smooth) if smooth else None

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
            node: self.weigh(products, {task: losses[task] for task in tree.at(node, tasks)}, node)
            for node, products in gramians.items()
        }
        harm = parameter_gramians(tree, tasks) if self.measure_harm else None
        self.diagnostics = Diagnostics.of(gramians, weights, harm)
        tree.backward(weights)
        return flat(weights)

    def weigh(self, gramian: Tensor, losses: Mapping[str, Tensor], node: str = "") -> dict[str, float]:
        """The weight of each task's gradient at a node, zero and non-finite gradients taken care of."""
        tasks = list(losses)
        present = gramian.numpy()
        if not np.isfinite(present).all():
            return dict.fromkeys(tasks, self._factor(present, np.ones(len(tasks))) / len(tasks))
        products = present if self.running is None else self.running.update(node, present, tasks)
        moving = np.flatnonzero(present.diagonal() > 0)
        if self.when == "conflict" and _mean_cosine(products[np.ix_(moving, moving)]) >= 0:
            return dict.fromkeys(tasks, 1.0)
        sizes = self._sizes(products, losses)
        if not np.isfinite(sizes).all():
            return dict.fromkeys(tasks, self._factor(present, np.ones(len(tasks))) / len(tasks))
        weights = np.zeros(len(tasks))
        if len(moving):
            share = np.exp(np.log(sizes[moving]).mean()) / sizes[moving]
            scaled = products[np.ix_(moving, moving)] * share * share[:, None]
            chosen = self.choose(torch.from_numpy(scaled), [tasks[t] for t in moving])
            weights[moving] = chosen.detach().cpu().double().numpy() * share
        factor = self._factor(present, weights)
        return {task: factor * float(weight) for task, weight in zip(tasks, weights, strict=True)}

    def _factor(self, products: np.ndarray, weights: np.ndarray) -> float:
        """What the chosen weights are multiplied by, given the Gramian [T, T] of what they combine."""
        if self.scale == "tasks":
            return float(len(weights))
        if self.scale != "sum":
            return float(self.scale)
        longest = _LONGEST * len(weights)
        if not np.isfinite(products).all():
            return float(len(weights))
        plain, chosen = products.sum(), weights @ products @ weights
        return float(min(np.sqrt(plain / chosen), longest)) if chosen > 0 and plain > 0 else longest

    def _sizes(self, products: np.ndarray, losses: Mapping[str, Tensor]) -> np.ndarray:
        """[T], what each gradient is divided by."""
        sizes = np.ones(len(losses))
        if self.normalize in ("loss", "loss+"):
            means = global_means(list(losses.values())).abs().numpy()
            sizes = sizes * np.maximum(means, np.finfo(np.float32).tiny)
        if self.normalize in ("l2", "loss+"):
            sizes = sizes * np.sqrt(products.diagonal())
        return sizes


class RunningGramians(nn.Module):
    """Running means of Gramians by node, saved and resumed with the rule.

    Args:
        decay: from one backward pass to the next.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = float(decay)
        self._means: dict[str, dict[str, list[float]]] = {}

    def update(self, node: str, products: np.ndarray, tasks: Sequence[str]) -> np.ndarray:
        """The running mean [T, T] of the tasks' Gramian, the new one included, without the bias of its beginning.

        Each pair has its own mean, over the passes in which both tasks were present.
        """
        means, found = self._means.setdefault(node, {}), np.empty_like(products)
        for (i, one), (j, other) in product(enumerate(tasks), repeat=2):
            total, share = means.get(f"{one}/{other}", (0.0, 0.0))
            total = self.decay * total + (1 - self.decay) * float(products[i, j])
            share = self.decay * share + (1 - self.decay)
            means[f"{one}/{other}"] = [total, share]
            found[i, j] = total / share
        # Pairs that were absent at different times make no Gramian together.
        values, vectors = np.linalg.eigh(found)
        return found if values[0] >= 0 else (vectors * values.clip(0)) @ vectors.T

    def get_extra_state(self) -> dict[str, dict[str, list[float]]]:
        return {node: dict(means) for node, means in self._means.items()}

    def set_extra_state(self, state: dict[str, dict[str, list[float]]]) -> None:
        self._means = {node: dict(means) for node, means in state.items()}


def _mean_cosine(products: np.ndarray) -> float:
    """Of all pairs of gradients that are not zero; 1 for a single one."""
    count = len(products)
    if count < 2:
        return 1.0
    lengths = np.sqrt(products.diagonal())
    cosines = products / lengths / lengths[:, None]
    return float((cosines.sum() - np.trace(cosines)) / (count * (count - 1)))


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
