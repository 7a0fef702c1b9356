"""The stages of a run, one after the other, each with its own loss weights and trained parts.

FitNets' two stages (Romero et al. 2015, algorithm 1) are a schedule of two: hints alone up to the guided layer, then
everything. Without a schedule a run is one stage. What a stage does not train does not move at all: no gradient, so
neither momentum nor weight decay moves it, and evaluation mode, so its running statistics stay too.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from distill_mtl.distillation.term import LossConfig, Term
from distill_mtl.errors import UserError, nearest
from distill_mtl.students.student import Body, Student


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        ends: the first step after it.
        loss_configs: task -> how it is learned; the pairs of layers are the same in all stages.
        trains: names of the parameters that train, as `Objective` has them; None: all.
    """

    ends: int
    loss_configs: Mapping[str, LossConfig]
    trains: frozenset[str] | None = None

    @property
    def temperatures(self) -> dict[str, float]:
        """task -> of its soft targets."""
        return {task: loss_config.temperature for task, loss_config in self.loss_configs.items()}

    @property
    def taught(self) -> frozenset[str]:
        """The tasks whose loss uses a teacher's answer."""
        return frozenset(task for task, loss_config in self.loss_configs.items() if loss_config.uses_teacher)


class Schedule:
    """The stages of a run, a pure function of the step, so that resuming needs no state.

    Args:
        stages: at least one, each ending after the one before.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = tuple(stages)
        self._ends = [stage.ends for stage in stages]

    @classmethod
    def constant(cls, loss_configs: Mapping[str, LossConfig], steps: int) -> "Schedule":
        """The same loss configs from the first step to the last."""
        return cls([Stage(steps, loss_configs)])

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self._ends[-1]

    def at(self, step: int) -> Stage:
        """The stage of step `step`, counted from 0."""
        return self.stages[min(bisect_right(self._ends, step), len(self.stages) - 1)]

    def uses_teacher(self, task: str) -> bool:
        """Whether in any stage a teacher's answer changes the task's loss."""
        return any(task in stage.taught for stage in self.stages)


ADAPTERS, GUIDED, HEADS, TRUNK = "adapters", "guided", "heads", "trunk"


def named_parameters(
    student: Student,
    terms: Mapping[str, Sequence[Term]],
    part: str,
    guided: Mapping[str, Iterable[str]] | None = None,
) -> frozenset[str]:
    """The names in `Objective` of the parameters that a part stands for; empty where there are none.

    Args:
        student: on any device.
        terms: task -> its terms.
        part: `trunk`, `trunk:LAYER` (what that layer's output depends on), `trunk:PART` of a trunk in parts
            (`trunk:depth+normals`), `guided` (what all guided layers depend on), `heads`, `heads:TASK` or `adapters`.
        guided: task -> the student's layers that its hints read.

    Raises:
        UserError: there is no such part, layer or task.
    """
    kind, _, name = part.partition(":")
    if kind == ADAPTERS and not name:
        return frozenset(
            f"terms.{task}.{term.key}.{parameter}"
            for task, of_task in terms.items()
            for term in of_task
            for parameter, _ in term.named_parameters()
        )
    if kind == HEADS:
        if name and name not in student.kinds:
            raise UserError(f"there is no head '{name}'.{nearest(name, student.kinds)}")
        return _beginning(student, f"{HEADS}.{name}." if name else f"{HEADS}.")
    if kind == GUIDED and not name:
        return frozenset().union(
            *(_up_to(student.trunk, layers, task) for task, layers in (guided or {}).items())
        )
    if kind == TRUNK and name in student.trunk.parts:
        return frozenset(
            f"student.{TRUNK}.{owned}"
            for owned, value in student.trunk.owned(name).items()
            if value.requires_grad
        )
    if kind == TRUNK:
        return _up_to(student.trunk, [name]) if name else _beginning(student, f"{TRUNK}.")
    raise UserError(
        f"there is no part '{part}'.{nearest(kind, (TRUNK, GUIDED, HEADS, ADAPTERS))} "
        "Parts: trunk, trunk:LAYER, guided, heads, heads:TASK, adapters."
    )


def only_train(module: nn.Module, trains: Collection[str], prefix: str = "") -> None:
    """Training mode where parameters train, evaluation mode elsewhere.

    Args:
        module: a part of an objective.
        trains: names of the parameters that train.
        prefix: of the module's own names in them.
    """
    # By identity: a parameter of several modules has one name.
    _set_modes(
        module, {id(value) for name, value in module.named_parameters() if prefix + name in trains}, True
    )


def _set_modes(module: nn.Module, trains: set[int], inside: bool) -> None:
    """`inside`: whether the module around it trains, which decides for what has no parameters (dropout, normalisation
    without them)."""
    own = [id(parameter) for parameter in module.parameters()]
    module.training = not trains.isdisjoint(own) if own else inside
    for child in module.children():
        _set_modes(child, trains, module.training)


def _beginning(student: Student, beginning: str) -> frozenset[str]:
    return frozenset(
        f"student.{name}"
        for name, parameter in student.named_parameters()
        if name.startswith(beginning) and parameter.requires_grad
    )


def _up_to(trunk: Body, layers: Iterable[str], task: str | None = None) -> frozenset[str]:
    return frozenset(f"student.{TRUNK}.{name}" for name in trunk.parameters_behind(layers, task))
