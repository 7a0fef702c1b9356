"""A student's folder as a teacher: one of its heads answers for one task.

Registered with the teachers' forms, so that a folder that distill_mtl wrote can be named wherever a recipe
names a teacher (dense teachers have no other form).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill_mtl.errors import UserError
from distill_mtl.networks.task_network import BackboneNetwork, Opened
from distill_mtl.networks.timm_folder import FORMS, FolderForm
from distill_mtl.networks.weights import RecordedScore
from distill_mtl.students.folder import read_student
from distill_mtl.students.format import FORMAT, SCORES, chosen_head
from distill_mtl.students.trunk import DEFAULT_FAMILY, Trunk
from distill_mtl.tasks.base import named_classes, shaping_options


@FORMS.register(FORMAT)
class StudentForm(FolderForm):
    """`runs/NAME/student`."""

    @classmethod
    def open(
        cls, folder: Path, config: Mapping[str, Any], task: str | None, default: str, *, trust: bool
    ) -> Opened:
        student = read_student(folder, config, trust=trust)
        wanted = chosen_head(folder, list(student.kinds), task, default)
        kind = student.kinds[wanted]
        network = BackboneNetwork(
            student.trunk,
            student.heads[wanted],
            kind.needs(student.trunk.shapes),
            width=kind.outputs,
            dense=kind.dense,
        )
        return Opened(
            network,
            named_classes(kind.classes),
            kind.name,
            form=f"head '{wanted}' of a student folder",
            told=tuple(config["trunk"]["inputs"]),
            trunk={"model": _as_student(student.trunk), "args": student.trunk.args},
            options=shaping_options(kind.name, kind.describe()),
            score=_recorded(folder, config, wanted),
        )


def _recorded(folder: Path, config: Mapping[str, Any], task: str) -> RecordedScore | None:
    """What the run that left the student found it to score."""
    entry = config.get("extra", {}).get(SCORES, {}).get(task)
    try:
        return None if entry is None else RecordedScore(**{**entry, "score": float(entry["score"])})
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(
            f"{folder}: the score of '{task}' in config.json makes no sense: {error!r}."
        ) from error


def _as_student(trunk: Trunk) -> str:
    """What `student.model` would say for this trunk."""
    return trunk.name if trunk.family == DEFAULT_FAMILY else f"{trunk.family}:{trunk.name}"
