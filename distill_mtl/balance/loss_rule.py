"""Rules that weight whole task losses, heads included, and the two plainest of them: `uniform` and `fixed`.

`uncertainty`, `geometric` and `gradnorm` are others.
"""

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from distill_mtl.balance.parameter_gradients import parameter_gramians
from distill_mtl.balance.rule import Backward, Diagnostics, Rule, plain_backward, register, total_of
from distill_mtl.balance.shared import Shared
from distill_mtl.balance.tree import Tree


class LossRule(Rule):
    """A rule whose step is the gradient of one scalar. A child says which: `objective`."""

    @abstractmethod
    def objective(self, losses: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """The scalar to descend, and the weight that it gives to each task's loss."""

    def backward(
        self,
        losses: Mapping[str, Tensor],
        shared: Shared | Tree | None,
        backward: Backward = plain_backward,
        *,
        parameters: Iterable[nn.Parameter] | None = None,
    ) -> dict[str, float]:
        tasks = self.present(losses, shared)
        total, weights = self.objective({task: losses[task] for task in tasks})
        if shared is None:
            self.diagnostics = Diagnostics()
            backward(total)
            return weights
        tree = Tree.of(shared)
        tree.backward_heads(total, backward)
        # The copies already hold weighted gradients, so each counts once.
        once = {node: dict.fromkeys(tree.at(node, tasks), 1.0) for node in tree.nodes}
        harm = parameter_gramians(tree, tasks) if self.measure_harm else None
        products = self.measure(tree, {task: losses[task] for task in tasks}, parameters)
        self.note(products, once, harm, whole=all(node in products for node in once if once[node]))
        tree.backward(once)
        return weights

    def measure(
        self, tree: Tree, losses: Mapping[str, Tensor], parameters: Iterable[nn.Parameter] | None
    ) -> dict[str, Tensor]:
        """The Gramians of the weighted gradients by node; a child that learns from them does so here.

        A node that others read has none here unless harm is measured: a plain backward keeps no task's own gradient
        there. None are measured where nobody asks for diagnostics.
        """
        return tree.gramians(list(losses), split=False) if self.diagnose else {}


@register("uniform")
class Uniform(LossRule):
    """Every task's loss counts once."""

    def objective(self, losses: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        return total_of(losses.values()), dict.fromkeys(losses, 1.0)


@register("fixed")
class Fixed(LossRule):
    """Σ weight · loss.

    Args:
        tasks: names of all tasks.
        weights: one finite weight ≥ 0 per task, by name.

    Raises:
        ValueError: a task without a weight, a weight without a task, or a weight that makes no sense.
    """

    def __init__(self, tasks: Sequence[str], weights: Mapping[str, float]) -> None:
        super().__init__(tasks)
        missing, unknown = sorted(set(tasks) - set(weights)), sorted(set(weights) - set(tasks))
        if missing or unknown:
            raise ValueError(
                f"fixed weights must name every task once; without a weight: {missing}, not a task: {unknown}"
            )
        wrong = {task: weight for task, weight in weights.items() if not 0 <= float(weight) < math.inf}
        if wrong:
            raise ValueError(f"fixed weights must be finite and not negative, got {wrong}")
        self.weights = {task: float(weights[task]) for task in tasks}

    def objective(self, losses: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        weights = {task: self.weights[task] for task in losses}
        return total_of(weight * losses[task] for task, weight in weights.items()), weights
