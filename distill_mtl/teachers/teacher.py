"""A teacher: one task of a trained network, frozen from the moment it exists, and its answers about a batch.

`load_teacher` makes it; training, the check and the evaluation ask it. It is kept out of
`accelerator.prepare`, the optimizer and the checkpoint.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from distill_mtl.networks.backbone import LOGITS
from distill_mtl.networks.inputs import InputContract
from distill_mtl.networks.modes import freeze
from distill_mtl.networks.task_network import TaskNetwork
from distill_mtl.teachers.card import TeacherCard


@dataclass(frozen=True)
class TeacherOutput:
    """One teacher's forward pass over R rows.

    Attributes:
        logits: [R, classes] or [R, classes, h, w], before any softmax, in the order of the task's classes; of a
            detector [R, classes + 4, K], as `networks.boxes.as_answer` packs scored boxes.
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


def hidden_name(teacher: str, layer: str) -> str:
    """A layer's name beside those of other teachers of the task."""
    return f"{teacher}:{layer}"


def named_hidden(teacher: str, output: TeacherOutput) -> TeacherOutput:
    """The output with its layers named as those of this teacher, if its task has several."""
    if "/" not in teacher:
        return output
    hidden = {hidden_name(teacher, layer): feature for layer, feature in output.hidden.items()}
    return TeacherOutput(output.logits, hidden)


@dataclass(frozen=True)
class Target:
    """One task's teacher output for the rows of a batch that need one.

    Attributes:
        rows: int64 [R], positions in the batch, ascending.
        output: the teacher's output for exactly these rows.
        masked: bool [R], rows that teach nothing; they count as rows with a loss of 0. None: no row is masked.
        weights: float [R], of each row's loss; None: 1.
        known: positions of the classes that are known; None: all.
    """

    rows: Tensor
    output: TeacherOutput
    masked: Tensor | None = None
    weights: Tensor | None = None
    known: tuple[int, ...] | None = None


Targets = dict[str, Target]
"""Name of a teacher, or of several that are one (`Ensemble`) -> what it says."""


class Teacher(nn.Module):
    """Images in [0, 1] of any size -> logits and hidden features.

    Args:
        network: opened, giving the layers of the card.
        card: what is known of it.
        fixed_device: the device that it stays on; None: it goes where it is sent.
    """

    network: TaskNetwork

    def __init__(
        self, network: TaskNetwork, card: TeacherCard, fixed_device: torch.device | None = None
    ) -> None:
        super().__init__()
        self.network, self.card, self.fixed_device = network, card, fixed_device
        freeze(self)
        if fixed_device is not None:
            self.to(fixed_device)

    @property
    def known(self) -> tuple[int, ...] | None:
        """Positions of the classes that it knows; None: all."""
        return self.card.known

    @property
    def parameter_count(self) -> int | None:
        """Numbers that were learned; None where its file does not tell them from others."""
        return getattr(self.network.trunk, "parameter_count", None)

    @property
    def parameter_bytes(self) -> int | None:
        """Of these numbers, floats as float32."""
        return getattr(self.network.trunk, "parameter_bytes", None)

    @torch.no_grad()
    def forward(self, images: Tensor) -> TeacherOutput:
        """[R, 3, H, W] in [0, 1] -> logits in the order of the task's classes, and the features in `card.layers`.

        `no_grad` and not `inference_mode`, whose tensors could not enter a trainable adapter.
        """
        return self.read(self.network.run(images.to(self.fixed_device or images.device))).to(images.device)

    @torch.no_grad()
    def read(self, features: Mapping[str, Tensor]) -> TeacherOutput:
        """The same from what `network.run` gave, which several teachers of one file share."""
        read = self.network.read(features)
        hidden = {layer: self._aligned(read[layer]) for layer in self.card.layers}
        return TeacherOutput(self.card.labels(read[LOGITS]), hidden)

    @torch.no_grad()
    def raw(self, images: Tensor) -> dict[str, Tensor]:
        """What the network itself gives: its own logits, unmapped, and the features that are tapped now."""
        features = self.network(images.to(self.fixed_device or images.device))
        return {name: feature.to(images.device) for name, feature in features.items()}

    def train(self, mode: bool = True) -> "Teacher":
        """A teacher stays in evaluation mode, whatever a training loop asks of the modules around it."""
        return super().train(False)

    def to(self, *args: Any, **kwargs: Any) -> "Teacher":
        """A teacher with a fixed device stays there, whatever is moved around it."""
        return super().to(self.fixed_device) if self.fixed_device is not None else super().to(*args, **kwargs)

    def alone(self) -> "Teacher":
        """The same teacher for the classes that it knows, weights shared; it gives its logits alone."""
        card = replace(self.card, labels=self.card.labels.alone(), layers=(), shapes={})
        return Teacher(self.network, card, self.fixed_device)

    def with_inputs(self, inputs: InputContract) -> "Teacher":
        """The same teacher, weights shared, behind another input contract; it gives its logits alone.

        For the check, which tries the usual mistakes when a teacher scores badly.
        """
        return self.with_network(self.network.with_inputs(inputs))

    def with_network(self, network: TaskNetwork) -> "Teacher":
        """The same teacher, weights shared, whose network is run in another way; it gives its logits alone."""
        card = replace(self.card, inputs=network.inputs, layers=(), shapes={})
        return Teacher(network, card, self.fixed_device)

    def _aligned(self, feature: Tensor) -> Tensor:
        """A map of a part of the view, or of more than the view, does not lie over the student's: its mean does."""
        return feature if feature.ndim == 2 or self.card.inputs.whole_view else feature.mean((2, 3))
