"""A teacher's fingerprint: changes with everything that may change an answer, and needs no network."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from distill_mtl.networks.task_network import Origin
from distill_mtl.networks.weights import sha256
from distill_mtl.recipe.schema import TeacherSection

# What a recipe may say of a teacher that changes nothing in its answers; files count by what is in them.
_SILENT = {"path", "timm", "weights", "trust", "sha256", "expect", "precision", "compile", "device"}


def teacher_fingerprint(
    section: TeacherSection,
    origin: Origin,
    layers: Sequence[str | None],
    classes: Sequence[str] | int | None,
    kind: str | None,
    options: Mapping[str, Any],
) -> str:
    """Hexadecimal SHA-256 over files, layers, classes, kind, its options and what the recipe says of the teacher.

    Args:
        section: of the recipe.
        origin: where it lies.
        layers: hidden features as the recipe names them; None: the default.
        classes: of the task, as the recipe says.
        kind: of the task, as the recipe says.
        options: of the kind that decide what the outputs stand for, as the recipe says.
    """
    content = {
        "files": [sha256(file) for file in origin.files],
        "section": section.model_dump(mode="json", exclude=_SILENT),
        "layers": list(layers),
        "kind": kind,
        "options": dict(options),
        "classes": classes if classes is None or isinstance(classes, int) else list(classes),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
