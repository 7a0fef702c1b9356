"""Any trained model, opened to stand in a student's or in its teachers' place: a run, a student folder, a file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_mtl.errors import UserError, nearest
from distill_mtl.networks.file_contract import NOTE
from distill_mtl.networks.hub_repository import PREFIXES, fetch_folder
from distill_mtl.networks.runtime import read_extra_files
from distill_mtl.networks.weights import network_folder, read_config
from distill_mtl.recipe.command_line import read_teacher
from distill_mtl.recipe.load import absolute_teacher
from distill_mtl.students.format import FORMAT
from distill_mtl.tasks.base import TaskKind
from distill_mtl.teachers.joined import JoinedTeachers
from distill_mtl.teachers.load import load_teacher
from distill_mtl.teachers.sharing import share_trunks
from distill_mtl.teachers.teacher import Teacher


@dataclass(frozen=True)
class Contender:
    """A model, opened for some tasks.

    Attributes:
        place: as it was named.
        teachers: by task, what answers it; those of one file share its trunk.
    """

    place: str
    teachers: Mapping[str, Teacher]

    @property
    def network(self) -> JoinedTeachers:
        """All of it as one network, in a student's place."""
        return JoinedTeachers(self.teachers)


@dataclass(frozen=True)
class Asked:
    """What a model is asked to answer.

    Attributes:
        kind: of the task; None: the model's.
        classes: names or number; None: the model's.
        options: of the kind; None: the model's.
    """

    kind: str | None = None
    classes: Sequence[str] | int | None = None
    options: Mapping[str, Any] | None = None

    @classmethod
    def as_by(cls, kind: TaskKind, options: Mapping[str, Any] | None = None) -> "Asked":
        """What another network answers for the same task."""
        numbered = kind.classes == tuple(str(index) for index in range(len(kind.classes)))
        return cls(kind.name, len(kind.classes) if numbered else kind.classes, options)


def open_contender(place: str, asked: Mapping[str, Asked], *, trust: bool = False) -> Contender:
    """Open a model for some tasks.

    Args:
        place: a run folder, a student folder, or whatever `teacher:` takes.
        asked: the tasks; a model that knows its tasks by name must have them, any other answers one.
        trust: let it run code.

    Raises:
        UserError: it cannot be loaded, or does not answer these tasks.
    """
    tasks = tasks_of(place)
    if tasks is None and len(asked) > 1:
        raise UserError(
            f"{place} answers one task, and {', '.join(asked)} are asked for. Name one with --task."
        )
    teachers = {}
    for task, what in asked.items():
        values: dict[str, Any] = {"path": place} | ({"trust": True} if trust else {})
        if tasks is not None and len(tasks) > 1 and task not in tasks:
            raise UserError(f"{place} has no task '{task}'.{nearest(task, tasks)} Tasks: {', '.join(tasks)}.")
        section = absolute_teacher(read_teacher(values, (), task))
        teachers[task] = load_teacher(
            section, task=task, kind=what.kind, classes=what.classes, options=what.options
        )
    share_trunks(teachers.values())
    return Contender(place, teachers)


def tasks_of(place: str) -> list[str] | None:
    """Names of the tasks that a model answers; None for one that does not name them, and so has one.

    Raises:
        UserError: its folder or its archive cannot be read, or there is no way to the hub that it lies on.
    """
    path = _local(place)
    if path.is_dir():
        config = read_config(path)
        return list(config["tasks"]) if config.get("format") == FORMAT else None
    return list(_note(path).get("tasks", {})) or None


def exists(place: str) -> bool:
    """Whether a place is on this machine, or on the hub, which only loading asks."""
    return place.startswith(PREFIXES) or Path(place).exists()


def _local(place: str) -> Path:
    """The folder or file on this machine; the student of a run folder."""
    if place.startswith(PREFIXES):
        return fetch_folder(place.partition(":")[2])
    return network_folder(Path(place))


def _note(path: Path) -> dict[str, Any]:
    """What a file that distill_mtl exported says about itself; empty for any other, whose errors come on loading."""
    if not path.is_file():
        return {}
    if path.suffix.lower() == ".onnx":
        from distill_mtl.networks.runtimes.onnx_file import read_graph

        notes = {entry.key: entry.value for entry in read_graph(path).metadata_props}
    else:
        notes = read_extra_files(path)
    try:
        note = json.loads(notes.get(NOTE, "{}"))
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}
