"""What must be known of a teacher to use its cached answers without opening its network.

Every sidecar carries it as JSON, so that a cache is complete in itself.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import torch

from distill_mtl.networks.features import FeatureShape
from distill_mtl.teachers.card import TeacherCard
from distill_mtl.teachers.teacher import Teacher


@dataclass(frozen=True)
class TeacherFacts:
    """A teacher without its network.

    Attributes:
        card: of the teacher.
        logits: shape of one row's logits, (classes,) or (classes, h, w).
    """

    card: TeacherCard
    logits: tuple[int, ...]

    @property
    def layers(self) -> Mapping[str, FeatureShape]:
        """The hidden features that it gives, with their shapes."""
        return self.card.shapes

    @cached_property
    def json(self) -> str:
        """One line; `from_json` reads it."""
        entry = {"card": self.card.to_dict(), "logits": self.logits}
        return json.dumps(entry, sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "TeacherFacts":
        """The inverse of `json`. Raises ValueError, TypeError or KeyError for anything else."""
        entry: dict[str, Any] = json.loads(text)
        return cls(TeacherCard.from_dict(entry["card"]), tuple(entry["logits"]))


def facts_of(teacher: Teacher) -> TeacherFacts:
    """The facts of a loaded teacher; shows it one black image to find the shape of its logits."""
    held = chain(teacher.parameters(), teacher.buffers())
    device = next((tensor.device for tensor in held), torch.device("cpu"))
    output = teacher(torch.zeros(1, 3, *teacher.card.inputs.size, device=device))
    return TeacherFacts(teacher.card, tuple(output.logits.shape[1:]))
