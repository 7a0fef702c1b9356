"""The answers of teachers about a batch: the part of the truth that its labels do not hold."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TeacherOutput:
    """One teacher's forward pass over R rows.

    Attributes:
        logits: [R, classes] or [R, classes, h, w], before any softmax, in the order of the task's classes.
        hidden: the tapped layers by dotted name, as maps [R, C, h, w] or vectors [R, C].
    """

    logits: Tensor
    hidden: dict[str, Tensor]

    def to(self, device: torch.device) -> "TeacherOutput":
        """The same on `device`."""
        if self.logits.device == device:
            return self
        hidden = {layer: feature.to(device, non_blocking=True) for layer, feature in self.hidden.items()}
        return TeacherOutput(self.logits.to(device, non_blocking=True), hidden)


@dataclass(frozen=True)
class Target:
    """One task's teacher output for the rows of a batch that need one.

    Attributes:
        rows: int64 [R], positions in the batch, ascending.
        output: the teacher's output for exactly these rows.
        masked: bool [R], rows that teach nothing; they count as rows with a loss of 0. None: no row is masked.
    """

    rows: Tensor
    output: TeacherOutput
    masked: Tensor | None = None


Targets = dict[str, Target]
