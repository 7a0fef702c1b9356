"""What `init` proposes where nobody says it: a student, its first weights, and the names of a teacher's classes."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import timm
import torch
from huggingface_hub import try_to_load_from_cache

from distill_mtl.data.index import load_index
from distill_mtl.data.open_files import OpenFiles
from distill_mtl.data.row_table import member_column
from distill_mtl.data.shard_files import find_shards
from distill_mtl.errors import ShardError, UserError
from distill_mtl.recipe.schema import StudentSection
from distill_mtl.students.families.timm_trunks import why_offline
from distill_mtl.students.initial_weights import create_trunk
from distill_mtl.students.student import OWN_CODE, Body, split_family
from distill_mtl.tasks.base import KINDS, named_classes
from distill_mtl.teachers.card import TeacherCard
from distill_mtl.teachers.teacher import Teacher

STUDENTS = (
    "resnet18",
    "resnet10t",
    "mobilenetv3_small_100",
    "test_resnet",
    "test_efficientnet",
)
"""Architectures of timm to choose from, the largest first; each is built without memory for its weights, which not all
networks of every timm can."""
_ROWS = 20_000
"""Labels that are looked at for the names of classes."""
_NAMES_SHOWN = 5


def smaller_student(teachers: Sequence[Teacher]) -> tuple[str, str]:
    """An architecture with no more parameters than the teachers have together, and why it was taken."""
    networks = {id(teacher.network.trunk): teacher for teacher in teachers}.values()
    known = [
        sum(value.numel() for value in teacher.parameters()) or teacher.parameter_count
        for teacher in networks
    ]
    if None in known:
        return STUDENTS[0], "a common choice; any timm architecture works"
    total = sum(map(int, filter(None, known)))
    for name in STUDENTS:
        with torch.device("meta"):
            size = sum(value.numel() for value in timm.create_model(name, num_classes=0).parameters())
        if size <= total:
            return (
                name,
                f"{size:,} parameters, no more than the teachers' {total:,}; any timm architecture works",
            )
    return (
        name,
        f"the smallest one proposed; the teachers have {total:,} parameters. Your own: student.module",
    )


def initial_weights(trunk: Mapping[str, Any]) -> tuple[str, str]:
    """`student.init` where no teacher has the student's architecture, and why: what can be had as it stands."""
    family, name = split_family(trunk["model"])
    if family == OWN_CODE or not timm.is_model_pretrained(name):
        return "random", "no trained weights are known"
    cfg = timm.models.get_pretrained_cfg(name)
    file = getattr(cfg, "hf_hub_filename", None) or "model.safetensors"
    if cfg is not None and cfg.hf_hub_id and isinstance(try_to_load_from_cache(cfg.hf_hub_id, file), str):
        return "pretrained", "timm's weights, which are in the cache"
    if why := why_offline():
        return "random", f"timm's weights cannot be fetched here: {why}"
    return "pretrained", "timm's weights, fetched once; without a connection write random"


def student_lines(trunk: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe's `student` says of a trunk (`Network.trunk`): `model` and `args`, or `module` and its keys."""
    family, name = split_family(trunk["model"])
    if family != OWN_CODE:
        return {"model": trunk["model"], **({"args": dict(trunk["args"])} if trunk["args"] else {})}
    said = {key: trunk["args"][key] for key in ("args", "layers", "input") if trunk["args"].get(key)}
    return {"module": name, **said, "trust": True}


def one_pixel(trunk: Body) -> str:
    """A warning where a trunk's last map is a single pixel; else nothing."""
    size = trunk.shapes[trunk.last].size if trunk.last in trunk.shapes else None
    if size is None or max(size) > 1:
        return ""
    height, width = trunk.inputs.size
    return (
        f"the last map of {trunk.name} at {height} x {width} pixels is a single pixel: maps are decoded, and hints "
        "compared, without places there. A larger student.input_size or a network with a smaller stride gives more."
    )


def one_pixel_of(section: StudentSection) -> str:
    """`one_pixel` of a recipe's student; nothing where it has no architecture of timm, or cannot be built."""
    if section.model is None:
        return ""
    try:
        with torch.random.fork_rng(devices=[]):
            return one_pixel(create_trunk(section, pretrained=False))
    except UserError:  # the check says it better
        return ""


def classes_in_shards(card: TeacherCard, train: Sequence[str], where: str) -> tuple[str, ...] | None:
    """Names for the outputs of a teacher that has none, from the labels of its training shards in alphabetical order.

    That is the order of torchvision's ImageFolder and of most trainings on folders; the check measures whether it is
    right.

    Args:
        card: of the teacher.
        train: shards.
        where: they were named, for messages.

    Raises:
        ShardError: the labels have names, of another number than the teacher's outputs.
    """
    kind = KINDS[card.kind].class_for(card.options)
    if named_classes(card.classes) is not None or kind.fixed_classes is not None or not kind.open_classes:
        return None
    payloads = list(itertools.islice(_labels(kind.endings(), train, where), _ROWS))
    try:
        names = kind.classes_in(payloads, ()) if payloads else None
    except ValueError:
        return None
    if not isinstance(names, tuple):
        return None
    if len(names) != len(card.classes):
        shown = ", ".join(names[:_NAMES_SHOWN]) + (", …" if len(names) > _NAMES_SHOWN else "")
        raise ShardError(
            f"--data {where}: the labels name {len(names)} classes ({shown}), and {card.name} has {len(card.classes)} "
            "outputs without names. Name them: --set tasks.TASK.teacher.classes=[...]."
        )
    return names


def _labels(endings: Sequence[str], train: Sequence[str], where: str) -> Iterator[bytes]:
    """What stands under the first of these members that a shard has, of all rows."""
    files = OpenFiles()
    for shard in find_shards(list(train), f"--data {where}"):
        index = load_index(shard.path)
        offsets, sizes = member_column(index, ";".join(endings))
        for row in np.flatnonzero(sizes >= 0).tolist():
            yield files.read(str(shard.path), int(offsets[row]), int(sizes[row]))
