"""A student's folder as a teacher: one of its heads answers for one task.

Registered with the teachers' forms, so that a folder that distill_mtl wrote can be named wherever a recipe
names a teacher (dense teachers have no other form).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill_mtl.students.folder import read_student
from distill_mtl.students.format import FORMAT, chosen_head
from distill_mtl.students.trunk import DEFAULT_FAMILY, Trunk
from distill_mtl.tasks.base import shaping_options
from distill_mtl.teachers.form import FORMS, FolderForm
from distill_mtl.teachers.network import BackboneNetwork, Opened


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
        named = kind.classes != tuple(str(index) for index in range(len(kind.classes)))
        return Opened(
            network,
            kind.classes if named else None,
            kind.name,
            form=f"head '{wanted}' of a student folder",
            told=tuple(config["trunk"]["inputs"]),
            trunk={"model": _as_student(student.trunk), "args": student.trunk.args},
            options=shaping_options(kind.name, kind.describe()),
        )


def _as_student(trunk: Trunk) -> str:
    """What `student.model` would say for this trunk."""
    return trunk.name if trunk.family == DEFAULT_FAMILY else f"{trunk.family}:{trunk.name}"
