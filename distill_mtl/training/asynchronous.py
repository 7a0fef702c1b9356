"""UberNet's asynchronous rule (Kokkinos 2016, arXiv:1609.02132): every part steps by its own count.

Where a batch holds few labels of a task, the gradient of that task's head is noise. So gradients are
gathered, separately for the trunk and for each head, and a part is stepped when it has seen enough rows.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from distill_mtl.distillation.counts import Counts
from distill_mtl.distillation.objective import Objective
from distill_mtl.recipe.schema import AsynchronousSection

TRUNK = "trunk"
Named = dict[str, nn.Parameter]


class Asynchronous:
    """Gradients of parts that do not step yet.

    The parts are the trunk with the balancing rule's own parameters, and each task's head with its loss terms; of a
    trunk in parts each part by itself. A task counts the rows that have a label or a target for it, the trunk every row
    with anything to learn, and a part of it every row with anything to learn for one of its tasks.

    Args:
        objective: whose parameters step.
        section: thresholds in rows of the global batch.

    Attributes:
        rows: part -> rows since its last step.
    """

    def __init__(self, objective: Objective, section: AsynchronousSection) -> None:
        trunk = objective.student.trunk
        shared = _named(trunk, "trunk") if not trunk.parts else {}
        self._parts: dict[str, Named] = {TRUNK: {**shared, **_named(objective.rule, "rule")}}
        self._thresholds = {TRUNK: section.trunk}
        for part in trunk.parts:
            self._parts[_part(part)] = {f"trunk.{name}": value for name, value in trunk.owned(part).items()}
            self._thresholds[_part(part)] = section.trunk
        for task in objective.loss_configs:
            head = objective.student.heads[task]
            terms = _named(objective.terms[task], f"terms.{task}")
            self._parts[_of(task)] = {**_named(head, f"heads.{task}"), **terms}
            self._thresholds[_of(task)] = (
                section.heads if isinstance(section.heads, int) else section.heads[task]
            )
        self.rows = dict.fromkeys(self._parts, 0)
        self._sums: dict[str, Tensor] = {}

    def hold_back(self, counts: Counts) -> None:
        """Add the gradients of a step. Parts with enough rows get the mean over them, the others no gradient.

        No gradient rather than a zero one: the optimizer's momentum and weight decay wait with the part.

        Args:
            counts: rows of the step. Every gradient is a mean over them, averaged over processes.
        """
        of_part = {
            TRUNK: counts.total,
            **{_part(part): rows for part, rows in counts.parts.items()},
            **{_of(task): rows for task, rows in counts.rows.items()},
        }
        for part, named in self._parts.items():
            self.rows[part] += of_part[part]
            for name, parameter in named.items():
                if parameter.grad is not None:
                    weighted = parameter.grad * of_part[part]
                    self._sums[name] = weighted + self._sums[name] if name in self._sums else weighted
                    parameter.grad = None
            if self.rows[part] >= self._thresholds[part]:
                for name, parameter in named.items():
                    if name in self._sums:
                        parameter.grad = self._sums.pop(name) / self.rows[part]
                self.rows[part] = 0

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"rows": dict(self.rows), "sums": dict(self._sums)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        parameters = {name: value for named in self._parts.values() for name, value in named.items()}
        self.rows = dict(state["rows"])
        self._sums = {name: sum_.to(parameters[name].device) for name, sum_ in state["sums"].items()}


def _part(name: str) -> str:
    return f"{TRUNK}.{name}"


def _of(task: str) -> str:
    return f"heads.{task}"


def _named(module: nn.Module, prefix: str) -> Named:
    return dict(module.named_parameters(prefix))
