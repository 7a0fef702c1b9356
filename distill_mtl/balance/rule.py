"""What every balancing rule is (T losses in, `.grad` filled, weights out), and rules by the name that a recipe uses.

A rule lives in one file of this folder and registers itself there. Every module of the folder is imported on the
first look-up, so a new rule is one new file. `LossRule` and `GramianRule` (in their own files) hold what the two
families have in common.
"""

import difflib
import importlib
import inspect
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from distill_mtl.balance.shared import Shared
from distill_mtl.balance.tree import ByNode, Tree

Backward = Callable[[Tensor], None]


def plain_backward(loss: Tensor) -> None:
    """`loss.backward()`; under Accelerate hand rules `accelerator.backward` instead."""
    loss.backward()


@dataclass(frozen=True)
class Diagnostics:
    """Relations between the tasks' gradients in the last step, measured for every rule.

    Attributes:
        cosines: by pair ("left/right"), from -1 (against each other) to 1; 0 for a zero gradient. On a tree
            by node and pair ("root/left/right").
        norm: length of the balanced direction, of all nodes together, loss scale divided out; 0 at a
            Pareto-stationary point. None, like empty cosines, where gradients were not measured or not finite.
        lengths: by task, of its part of that direction: its gradient times its weight, loss scale divided out.
        harmed: share of the tasks whose loss the step's gradient would raise to first order, in the
            parameters that several tasks share; None unless the rule was asked for it (`measure_harm`).
    """

    cosines: dict[str, float] = field(default_factory=dict)
    norm: float | None = None
    harmed: float | None = None
    lengths: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        gramians: Mapping[str, Tensor],
        weights: ByNode,
        in_parameters: Mapping[str, Tensor] | None = None,
        *,
        whole: bool = True,
    ) -> "Diagnostics":
        """From the Gramian [t, t] at each node of the gradients that its `weights` (same order) combined.

        `in_parameters` are their Gramians in the nodes' parameters, where that was asked for. Without `whole` some
        node has no Gramian, and the direction no known length.
        """
        products = {node: found.numpy() for node, found in gramians.items()}
        if not all(np.isfinite(found).all() for found in products.values()):
            return cls()
        values = {node: np.array(list(weights[node].values())) for node in weights}
        cosines: dict[str, float] = {}
        parts: dict[str, float] = {}
        square = 0.0
        for node, found in products.items():
            lengths = np.sqrt(found.diagonal())
            with np.errstate(divide="ignore", invalid="ignore"):
                between = np.nan_to_num(found / lengths[:, None] / lengths).clip(-1, 1)
            for (i, a), (j, b) in combinations(enumerate(weights[node]), 2):
                cosines[_key(node, f"{a}/{b}")] = float(between[i, j])
            for task, part in zip(weights[node], (values[node] * lengths) ** 2, strict=True):
                parts[task] = parts.get(task, 0.0) + part
            square += max(0.0, values[node] @ found @ values[node])
        return cls(
            cosines,
            float(np.sqrt(square)) if whole and products else None,
            None if in_parameters is None else _harmed(in_parameters, weights),
            {task: float(np.sqrt(found)) for task, found in parts.items()} if whole else {},
        )


def flat(weights: ByNode) -> dict[str, float]:
    """By "node/task"; by task alone for a plain trunk."""
    return {_key(node, task): weight for node in weights for task, weight in weights[node].items()}


def _key(node: str, name: str) -> str:
    return f"{node}/{name}" if node else name


class Rule(nn.Module, ABC):
    """Turns the losses of several tasks into one step.

    A rule is a module, so that its parameters and buffers are trained, moved, saved and resumed with the
    network. It sees only values that are reduced over processes, so all processes decide the same.

    Args:
        tasks: names of all tasks. Rules that keep nothing by task do not need them.

    Attributes:
        needs_coverage: the rule needs a label or a teacher for every task on every row.
        diagnostics: of the last step.
        diagnose: unset it before a step whose `diagnostics` nobody reads; they are empty after it. For rules that
            weight losses they cost a Gramian and a collective. Unset it on all processes.
        measure_harm: set it before a step to have `diagnostics.harmed` measured, which costs a backward
            pass through the trunk per task (nothing for `mgda`). Set it on all processes.
    """

    needs_coverage: ClassVar[bool] = False

    def __init__(self, tasks: Sequence[str] = ()) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self.diagnostics = Diagnostics()
        self.diagnose, self.measure_harm = True, False

    @abstractmethod
    def backward(
        self,
        losses: Mapping[str, Tensor],
        shared: Shared | Tree | None,
        backward: Backward = plain_backward,
        *,
        parameters: Iterable[nn.Parameter] | None = None,
    ) -> dict[str, float]:
        """Fill `.grad` of heads and trunk (adding to what is there) and say with which weights.

        Args:
            losses: a scalar per task that has rows in this step; absent tasks are not in it. Under
                several processes scaled so that their mean is the loss of the global batch; a task
                with rows on another process only has a zero that touches its head.
            shared: the cut that the losses were computed through, or the tree of cuts; None for a network
                without one, which loss rules and `mgda` accept.
            backward: runs a scalar's backward pass; `accelerator.backward` under Accelerate.
            parameters: the shared parameters, for the rules that compare gradients there.

        Returns:
            The weight of each task's loss (loss rules) or of its gradient at the cut (others); on a tree that of
            its gradient at each node, by "node/task".

        Raises:
            ValueError: no losses, a task that `shared` or the rule does not know, or something that
                this rule needs is missing.
        """

    def note(
        self,
        gramians: Mapping[str, Tensor],
        weights: ByNode,
        in_parameters: Mapping[str, Tensor] | None = None,
        *,
        whole: bool = True,
    ) -> None:
        """Set `diagnostics`, as `Diagnostics.of` makes them, where they are asked for."""
        found = Diagnostics.of(gramians, weights, in_parameters, whole=whole) if self.diagnose else None
        self.diagnostics = found or Diagnostics()

    def present(self, losses: Mapping[str, Tensor], shared: Shared | Tree | None) -> list[str]:
        """The tasks of this step, in an order that is the same on every process."""
        if not losses:
            raise ValueError("no task has a loss in this step")
        known = shared.tasks if shared is not None else (self.tasks or tuple(sorted(losses)))
        for names, owner in ((known, "the shared features"), (self.tasks or known, "the rule")):
            unknown = [task for task in losses if task not in names]
            if unknown:
                raise ValueError(f"losses of {unknown}, but {owner} has the tasks {list(names)}")
        return [task for task in known if task in losses]


def _harmed(gramians: Mapping[str, Tensor], weights: ByNode) -> float | None:
    """Share of the tasks that the weighted sums of all nodes together point away from by more than rounding."""
    along: dict[str, float] = {}
    own: dict[str, float] = {}
    square = 0.0
    for node, found in gramians.items():
        products, values = found.numpy(), np.array(list(weights[node].values()))
        if not np.isfinite(products).all():
            return None
        square += max(0.0, values @ products @ values)
        for task, product, length in zip(weights[node], products @ values, products.diagonal(), strict=True):
            along[task] = along.get(task, 0.0) + product
            own[task] = own.get(task, 0.0) + length
    if not along:
        return None
    return float(np.mean([along[t] < -1e-6 * np.sqrt(own[t]) * np.sqrt(square) for t in along]))


def total_of(losses: Iterable[Tensor]) -> Tensor:
    """The sum of scalar losses, which may have a dimension of size one."""
    return torch.stack([loss.reshape(()) for loss in losses]).sum()


RuleClass = TypeVar("RuleClass", bound=type[Rule])

_RULES: dict[str, type[Rule]] = {}


def register(name: str) -> Callable[[RuleClass], RuleClass]:
    """Class decorator: make the rule known as `name`, or as `name:ANYTHING` if it ends in a colon.

    A rule registered as a prefix gets what follows the colon as its argument `name`.
    """

    def add(rule: RuleClass) -> RuleClass:
        if name in _RULES:
            raise ValueError(f"balancing rule '{name}' is registered twice")
        _RULES[name] = rule
        return rule

    return add


def rule_names() -> list[str]:
    """Every known name, sorted; "torchjd:" stands for all names that begin so."""
    package = importlib.import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{__package__}.{module.name}")
    return sorted(_RULES)


def rule_class(name: str) -> type[Rule]:
    """The class that a recipe's name stands for, to ask what it needs before it is made.

    Raises:
        ValueError: the name is not registered; the message lists the names and the nearest one.
    """
    names = rule_names()
    key = name.partition(":")[0] + ":" if ":" in name else name
    if key not in names or key == name == "torchjd:":
        raise ValueError(
            f"unknown balancing rule '{name}'.{_nearest(name, names)} Known: {', '.join(names)}."
        )
    return _RULES[key]


def make_rule(name: str, tasks: Sequence[str], **options: Any) -> Rule:
    """The rule that a recipe names, for these tasks.

    Args:
        name: as in `rule_names()`, or "torchjd:UPGrad" and the like.
        tasks: names of all tasks.
        options: arguments of the rule's class.

    Raises:
        ValueError: unknown name or option (the message names the known and the nearest), or an option
            whose value makes no sense.
    """
    rule = rule_class(name)
    if name not in _RULES:
        options = {"name": name.partition(":")[2], **options}
    signature = inspect.signature(rule)
    known = [key for key in signature.parameters if key != "tasks"]
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values())
    for key in options:
        if key not in known and not open_ended:
            raise ValueError(
                f"balancing rule '{name}' has no option '{key}'.{_nearest(key, known)} "
                f"Known: {', '.join(known) or 'none'}."
            )
    try:
        signature.bind(tasks, **options)
    except TypeError as error:
        raise ValueError(f"balancing rule '{name}': {error} in its options") from None
    return rule(tasks, **options)


def _nearest(name: str, known: Sequence[str]) -> str:
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean '{found[0]}'?" if found else ""
