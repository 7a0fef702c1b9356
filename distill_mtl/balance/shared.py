"""The cut between a shared trunk and the heads of several tasks.

Every task works on its own copies of the shared features. One backward through the heads then leaves
each task's gradient on its copies, and one backward through the trunk takes whatever mixture of them
a balancing rule chose (Sener & Koltun 2018, section 3.3, done in one forward pass).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from distill_mtl.balance.distributed import world_size
from distill_mtl.balance.gramian import gramian, over_processes

Features = Tensor | Mapping[str, Tensor] | Sequence[Tensor]


class Shared:
    """The features that tasks share, and each task's gradient at them.

    Args:
        features: what the trunk computed: one tensor, several by name, or several in order. Features
            may depend on one another (two stages of one trunk).
        tasks: names of all tasks, in the same order on every process.

    `shared[task]` has the form that `features` had: a tensor, a dict or a list. Its tensors share the
    features' memory, so a head must not write into them in place (autograd raises if it does).
    """

    def __init__(self, features: Features, tasks: Sequence[str]) -> None:
        self.tasks = tuple(tasks)
        if len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"task names must differ, got {list(self.tasks)}")
        self._names = list(features) if isinstance(features, Mapping) else None
        self._single = isinstance(features, Tensor)
        self._features = _as_list(features)
        self._copies: dict[str, list[Tensor]] = {}
        self._forms: dict[str, Any] = {}
        self.unit = torch.zeros((), device=self.device, requires_grad=True)

    @property
    def features(self) -> list[Tensor]:
        """The features themselves, on the trunk's side of the cut."""
        return self._features

    @property
    def device(self) -> torch.device:
        """Where the features are."""
        return self._features[0].device

    def copies(self) -> list[Tensor]:
        """New copies of the features for a reader of its own; they need a gradient where the features do."""
        return [feature.detach().requires_grad_(feature.requires_grad) for feature in self._features]

    def in_given_form(self, copies: list[Tensor]) -> Any:
        """`copies` of the features in the form that the features had."""
        if self._single:
            return copies[0]
        return copies if self._names is None else dict(zip(self._names, copies, strict=True))

    @property
    def loss_scale(self) -> Tensor:
        """The factor (scalar) that `backward_heads`' callable put on the gradients, 1 before it ran."""
        return torch.ones_like(self.unit) if self.unit.grad is None else self.unit.grad

    def __getitem__(self, task: str) -> Any:
        """The task's own copies of the features; the same objects every time."""
        if task not in self.tasks:
            raise KeyError(f"'{task}' is none of the tasks {list(self.tasks)}")
        if task not in self._copies:
            copies = [_leaf(feature) for feature in self._features]
            self._copies[task] = copies
            self._forms[task] = self.in_given_form(copies)
        return self._forms[task]

    def backward_heads(self, total: Tensor, backward: Callable[[Tensor], None]) -> None:
        """One backward from `total`, a sum over tasks, to the heads' parameters and every task's copies."""
        backward(total + self.unit.to(total.device, total.dtype))

    def gradients(self, task: str) -> list[Tensor]:
        """The task's gradient at each feature after `backward_heads`; zeros where it used none."""
        return [
            torch.zeros_like(feature) if gradient is None else gradient
            for feature, gradient in zip(self._features, self._raw(task), strict=True)
        ]

    def with_gradients(self, task: str) -> list[tuple[Tensor, Tensor]]:
        """The features that need a gradient and have one of the task, each with it."""
        pairs = zip(self._features, self._raw(task), strict=True)
        return [
            (feature, gradient)
            for feature, gradient in pairs
            if feature.requires_grad and gradient is not None
        ]

    def add_gradients(self, task: str, gradients: Sequence[Tensor | None]) -> None:
        """Add to the task's gradient at each feature what reached a copy of it by another way."""
        self[task]
        for copy, gradient in zip(self._copies[task], gradients, strict=True):
            if gradient is not None:
                copy.grad = gradient if copy.grad is None else copy.grad + gradient

    def gramian(self, tasks: Sequence[str]) -> Tensor:
        """Inner products of the gradients of `tasks` at all features stacked, over the global batch.

        Loss scales are divided out. Rows of other processes are further coordinates of the gradient,
        so the global Gramian is the sum of all processes' ones; it is divided by the square of their
        number because each scales its losses by that number against the averaging of gradients.

        Returns:
            float64 [T, T] on the CPU, equal on every process.

        Raises:
            ValueError: the processes do not agree on which tasks are present.
        """
        at = [self.tasks.index(task) for task in tasks]
        return over_processes([self.local_gramian(tasks)], [at], self.tasks)[0]

    def local_gramian(self, tasks: Sequence[str]) -> Tensor:
        """[T, T] on the features' device: `gramian` of this process's rows alone."""
        scale = self.loss_scale.to(torch.float32)
        local = gramian([self._raw(task) for task in tasks]).to(self.device)
        return local / scale.to(local.dtype) ** 2

    def backward(self, weights: Mapping[str, float], leaves: Sequence[Tensor] | None = None) -> None:
        """One backward from the features, with the weighted sum of the tasks' gradients, to the trunk.

        Args:
            weights: by task.
            leaves: that get a gradient; None: all.
        """
        raw = {task: self._raw(task) for task in weights}
        roots, gradients = [], []
        for k, feature in enumerate(self._features):
            parts = [(weight, raw[task][k]) for task, weight in weights.items() if raw[task][k] is not None]
            # A process without a row for any task still goes through the trunk: the others wait for it.
            if feature.requires_grad and (parts or world_size() > 1):
                roots.append(feature)
                gradients.append(_combine(parts) if parts else torch.zeros_like(feature))
        if roots and leaves != []:
            torch.autograd.backward(roots, gradients, inputs=leaves)

    def leaves(self) -> list[Tensor]:
        """The parameters that the features were computed from, in an order that the graph alone decides."""
        return leaves_of(self._features)

    def _raw(self, task: str) -> list[Tensor | None]:
        return [copy.grad for copy in self._copies.get(task, ())] or [None] * len(self._features)


def leaves_of(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The leaves of the graph that tensors were computed in, in an order that the graph alone decides."""
    stack = [
        torch.autograd.graph.get_gradient_edge(tensor).node for tensor in tensors if tensor.requires_grad
    ]
    seen, found = set(stack), []
    while stack:
        node = stack.pop()
        if hasattr(node, "variable"):
            found.append(node.variable)
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                stack.append(following)
    return found


def _as_list(features: Features) -> list[Tensor]:
    if isinstance(features, Tensor):
        return [features]
    values = list(features.values()) if isinstance(features, Mapping) else list(features)
    if not values or not all(isinstance(value, Tensor) for value in values):
        raise ValueError("features must be a tensor, or a mapping or sequence of at least one tensor")
    return values


def _leaf(feature: Tensor) -> Tensor:
    copy = feature.detach()
    return copy.requires_grad_() if copy.is_floating_point() else copy


def _combine(parts: Sequence[tuple[float, Any]]) -> Tensor:
    """Σ weight · gradient, several summed in single precision at least; one of weight 1 is given as it is."""
    weight, first = parts[0]
    if len(parts) == 1:
        return first if weight == 1 else first * weight
    total = first.to(torch.promote_types(first.dtype, torch.float32)) * weight
    for weight, gradient in parts[1:]:
        total.add_(gradient, alpha=weight)
    return total.to(first.dtype)
