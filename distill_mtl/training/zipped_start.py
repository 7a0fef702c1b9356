"""A student that begins as the merger of its teachers: `student.init: zip`."""

import copy
from collections.abc import Mapping
from contextlib import suppress

import torch
from torch import Tensor, nn

from distill_mtl.errors import StudentError, UserError
from distill_mtl.networks.channel_graph import ChannelGraph, read_channels
from distill_mtl.networks.inputs import Preprocess
from distill_mtl.networks.task_network import BackboneNetwork
from distill_mtl.networks.zip import Order, matched_orders, merged, reordered
from distill_mtl.recipe.schema import TaskSection
from distill_mtl.students.families.timm_trunks import TimmTrunk
from distill_mtl.students.initial_weights import InitialHead, load_initial_head, seen_by_student
from distill_mtl.students.student import FAMILIES, Body, Student
from distill_mtl.tasks.heads import reorder_head
from distill_mtl.teachers.teacher import Teacher

ROWS = 600
"""Unlabelled rows that teachers are merged on."""
_PIXELS = 2**23


def zip_start(
    student: Student,
    teachers: Mapping[str, Teacher],
    sections: Mapping[str, TaskSection],
    images: Tensor,
) -> list[str]:
    """Fill a new student's trunk with its teachers merged, and the heads of their tasks with theirs.

    Every part of a trunk in parts is merged of the teachers of its own tasks. A head that its teacher's does not fit
    keeps its random weights, unless the recipe asks for the teacher's.

    Args:
        student: on the CPU; its random weights are overwritten.
        teachers: task -> teacher, on the CPU.
        sections: task -> what the recipe says of it.
        images: rows, float [R, 3, H, W] in [0, 1].

    Returns:
        The tasks whose teachers were merged.

    Raises:
        StudentError: fewer than two teachers are of the student's architecture, or its channels cannot be matched.
    """
    trunk = student.trunk
    whole = _whole(trunk)
    models, others = {}, {}
    for task in student.kinds:
        if task not in teachers:
            others[task] = "it has no teacher"
        elif (weights := _weights_of(teachers[task], whole)) is None:
            others[task] = f"{teachers[task].card.place.name} is another network"
        else:
            models[task] = copy.deepcopy(whole)
            models[task].load_state_dict(weights)
    if len(models) < 2:
        said = "; ".join(
            f"{task}: {why}" for task, why in [*((task, "it fits") for task in models), *others.items()]
        )
        raise StudentError(
            f"student.init: zip merges two or more teachers of the student's architecture, {trunk.name} ({said}). Use "
            "`init: teacher:TASK`, or another `model`."
        )
    try:
        channels = read_channels(whole, trunk.name)
    except UserError as error:
        raise StudentError(f"student.init: {error}") from error
    contract = next(seen_by_student(teachers[task].card.inputs, trunk) for task in models)
    trunk.preprocess = Preprocess(contract)
    rows = images[: max(1, _PIXELS // (contract.size[0] * contract.size[1]))]
    pixels = {task: Preprocess(seen_by_student(teachers[task].card.inputs, trunk))(rows) for task in models}
    found = matched_orders(channels, list(models.values()), list(pixels.values()))
    orders = dict(zip(models, found, strict=True))
    aligned = {task: reordered(channels, model, orders[task]) for task, model in models.items()}
    seen = trunk.preprocess(rows)
    state: dict[str, Tensor] = {}
    parts = trunk.parts or {"": tuple(models)}
    for part, tasks in parts.items():
        group = [task for task in tasks if task in aligned] or list(aligned)[:1]
        before = [f"{other}." for other in parts if set(parts[other]) > set(tasks)]
        given = {
            key.removeprefix(name): value
            for name in before
            for key, value in state.items()
            if key.startswith(name)
        }
        each = [pixels[task] for task in group]
        made = merged(channels, [aligned[task] for task in group], [seen, *each], given).state_dict()
        own = trunk.model.get_submodule(part).state_dict()
        state |= {f"{part}.{key}".lstrip("."): made[key] for key in own}
    trunk.model.load_state_dict(state)
    for task in models:
        _take_head(student, task, teachers[task], sections[task], channels, orders[task])
    return list(models)


def zip_instead(student: Student, teachers: Mapping[str, Teacher]) -> list[str]:
    """A note where a plain trunk begins with random weights and `zip` could give it its teachers': at most one."""
    trunk = student.trunk
    if not isinstance(trunk, TimmTrunk):
        return []
    alike = [task for task, teacher in teachers.items() if _weights_of(teacher, trunk.model) is not None]
    if len(alike) < 2:
        return []
    try:
        read_channels(_whole(trunk), trunk.name)
    except UserError:
        return []  # zip would refuse this network
    return [
        f"init: random, though the teachers of {', '.join(alike)} are {trunk.name} too: with `student.init: zip` it "
        "begins as these merged, which may save steps"
    ]


def _whole(trunk: Body) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        return FAMILIES[trunk.family].build(trunk.name, trunk.args).eval()


def _weights_of(teacher: Teacher, like: nn.Module) -> dict[str, Tensor] | None:
    """The teacher's weights for this network; None where it is another one."""
    if not isinstance(teacher.network, BackboneNetwork):
        return None
    given = teacher.network.backbone.model.state_dict()
    wanted = like.state_dict()
    if any(key not in given or given[key].shape != value.shape for key, value in wanted.items()):
        return None
    return {key: given[key] for key in wanted}


def _take_head(
    student: Student,
    task: str,
    teacher: Teacher,
    section: TaskSection,
    channels: ChannelGraph,
    order: Order,
) -> None:
    """Begin a head as the teacher's, which reads the trunk's channels in their new order."""
    if section.head.init == "random":
        return
    head = student.heads[task]
    if section.head.init is None:
        asked = section.networks[0].task if section.networks else None
        source = InitialHead(teacher.card.place, asked, teacher.card.labels)
        before = copy.deepcopy(head.state_dict())
        taken = False
        with suppress(StudentError):
            load_initial_head(head, student.kinds[task], task, source)
            taken = True
        if not taken:
            head.load_state_dict(before)
            return
    with torch.no_grad():
        reorder_head(head, lambda feature: order[channels.space_of(feature)])
