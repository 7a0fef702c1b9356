"""Rules that weight whole task losses, heads included: uniform, fixed, uncertainty, geometric, gradnorm."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from distill_mtl.balance.parameter_gradients import parameter_gramian
from distill_mtl.balance.rule import Backward, Diagnostics, Rule, plain_backward
from distill_mtl.balance.shared import Shared


class LossRule(Rule):
    """A rule whose step is the gradient of one scalar. A child says which: `objective`."""

    @abstractmethod
    def objective(self, losses: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """The scalar to descend, and the weight that it gives to each task's loss."""

    def backward(
        self,
        losses: Mapping[str, Tensor],
        shared: Shared | None,
        backward: Backward = plain_backward,
        *,
        parameters: Iterable[nn.Parameter] | None = None,
    ) -> dict[str, float]:
        tasks = self.present(losses, shared)
        total, weights = self.objective({task: losses[task] for task in tasks})
        self.diagnostics = Diagnostics()
        if shared is None:
            backward(total)
            return weights
        shared.backward_heads(total, backward)
        # The copies already hold weighted gradients, so each counts once.
        once = dict.fromkeys(tasks, 1.0)
        products = self.measure(shared, {task: losses[task] for task in tasks}, parameters)
        harm = parameter_gramian(shared, tasks) if self.measure_harm else None
        self.diagnostics = Diagnostics.of(products, once, harm)
        shared.backward(once)
        return weights

    def measure(
        self, shared: Shared, losses: Mapping[str, Tensor], parameters: Iterable[nn.Parameter] | None
    ) -> Tensor:
        """The Gramian of the weighted gradients; a child that learns from it does so here."""
        return shared.gramian(list(losses))
