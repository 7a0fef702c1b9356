"""What must be known of a teacher to use its cached answers without opening its network.

Every sidecar carries it as JSON, so that a cache is complete in itself.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch

from distill_mtl.networks.features import FeatureShape
from distill_mtl.networks.inputs import InputContract
from distill_mtl.teachers.teacher import Teacher


@dataclass(frozen=True)
class TeacherFacts:
    """A teacher without its network.

    Attributes:
        fingerprint: changes with everything that changes an answer.
        file: the weights.
        sha256: of that file.
        kind: of the task.
        classes: their names, in the order of the logits.
        named: the folder really names its classes.
        inputs: what the network was trained on.
        logits: shape of one row's logits, (classes,) or (classes, h, w).
        layers: the hidden features that it gives, with their shapes.
        last_map: name of the default hint layer.
    """

    fingerprint: str
    file: str
    sha256: str
    kind: str
    classes: tuple[str, ...]
    named: bool
    inputs: InputContract
    logits: tuple[int, ...]
    layers: Mapping[str, FeatureShape]
    last_map: str

    @cached_property
    def json(self) -> str:
        """One line; `from_json` reads it."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "TeacherFacts":
        """The inverse of `json`. Raises ValueError, TypeError or KeyError for anything else."""
        entry: dict[str, Any] = json.loads(text)
        return cls(
            **{
                **entry,
                "classes": tuple(entry["classes"]),
                "inputs": InputContract.from_dict(entry["inputs"]),
                "logits": tuple(entry["logits"]),
                "layers": {name: _shape(shape) for name, shape in entry["layers"].items()},
            }
        )


def facts_of(teacher: Teacher) -> TeacherFacts:
    """The facts of a loaded teacher; shows it one black image to find the shape of its logits."""
    device = next(teacher.parameters()).device
    output = teacher(torch.zeros(1, 3, *teacher.inputs.size, device=device))
    return TeacherFacts(
        fingerprint=teacher.fingerprint,
        file=str(teacher.file.resolve()),
        sha256=teacher.sha256,
        kind=teacher.kind,
        classes=teacher.classes,
        named=teacher.named,
        inputs=teacher.inputs,
        logits=tuple(output.logits.shape[1:]),
        layers={layer: teacher.shapes[layer] for layer in teacher.layers},
        last_map=teacher.last_map,
    )


def _shape(entry: Mapping[str, Any]) -> FeatureShape:
    size = entry["size"]
    return FeatureShape(entry["channels"], None if size is None else (size[0], size[1]), entry["pyramid"])
