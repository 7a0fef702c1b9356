"""What a student costs beside the teachers that it replaces, on one machine and in one go. Called by `evaluate`."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import torch
from torch import nn

from distill_mtl.evaluation.cost import Note, costs_of, head_costs
from distill_mtl.evaluation.memory import machine
from distill_mtl.evaluation.results import Cost, HeadCost
from distill_mtl.teachers.joined import JoinedTeachers
from distill_mtl.teachers.teacher import Teacher

_RESTLESS = 1.5
_BUSY = ", busy with other work: measure again when it is quiet"


@dataclass(frozen=True)
class Expense:
    """Costs of one comparison.

    Attributes:
        student: the whole.
        teachers: all together, one after the other; None where there is none.
        each: by task, its teacher alone.
        heads: by task, what its head takes of the student's.
        machine: in words, also that it was busy.
    """

    student: Cost
    teachers: Cost | None
    each: Mapping[str, Cost]
    heads: Mapping[str, HeadCost]
    machine: str


def expense_of(
    student: nn.Module,
    teachers: Mapping[str, nn.Module | None],
    size: tuple[int, int],
    device: torch.device | str,
    *,
    batch_size: int,
    note: Note = lambda text: None,
) -> Expense:
    """Measure student and teachers in turns.

    Teachers together are a sum (`Cost.__add__`) over what has to run for all tasks: one that teaches two tasks
    counts once, and so does a trunk that several share.

    Args:
        student, teachers: on the device; absent or None: a task without a teacher.
        size: height and width of the images.
        device: where the networks are.
        batch_size: of the comparison, which has shown that such batches fit.
        note: told what is being measured.
    """
    present = {task: teacher for task, teacher in teachers.items() if teacher is not None}
    runs = _runs(present)
    distinct = list({id(network): network for network in (*runs, *present.values())}.values())
    measured = costs_of([student, *distinct], size, device, known=batch_size, note=note)
    mine, *theirs = measured.costs
    cost = {id(network): found for network, found in zip(distinct, theirs, strict=True)}
    return Expense(
        student=mine,
        teachers=reduce(Cost.__add__, [cost[id(run)] for run in runs]) if runs else None,
        each={task: cost[id(teacher)] for task, teacher in present.items()},
        heads=head_costs(student, size, device),
        machine=machine(device) + (_BUSY if measured.unrest > _RESTLESS else ""),
    )


def _runs(teachers: Mapping[str, nn.Module]) -> list[nn.Module]:
    """The networks that have to run for all tasks; those that share a trunk as one."""
    groups: dict[int, dict[int, nn.Module]] = {}
    for teacher in teachers.values():
        trunk = teacher.network.trunk if isinstance(teacher, Teacher) else teacher
        groups.setdefault(id(trunk), {})[id(teacher)] = teacher
    runs: list[nn.Module] = []
    for group in groups.values():
        members = list(group.values())
        sharing = {str(place): member for place, member in enumerate(members) if isinstance(member, Teacher)}
        runs.append(members[0] if len(members) == 1 else JoinedTeachers(sharing))
    return runs
