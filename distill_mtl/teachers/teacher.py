"""A teacher: a trained network that answers for one task, frozen from the moment it exists.

`load_teacher` makes it from a folder; training, the check and the evaluation ask it. It is kept out of
`accelerator.prepare`, the optimizer and the checkpoint.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill_mtl.networks.backbone import Backbone
from distill_mtl.networks.features import FeatureShape
from distill_mtl.networks.inputs import InputContract
from distill_mtl.networks.weights import WEIGHTS, sha256
from distill_mtl.teachers.form import TeacherNetwork
from distill_mtl.teachers.freeze import freeze
from distill_mtl.teachers.output import TeacherOutput
from distill_mtl.teachers.score import RecordedScore, read_score


class Teacher(nn.Module):
    """Images in [0, 1] of any size -> logits and hidden features.

    Args:
        network: what the folder was opened to.
        folder: where it lies.
        layers: names of the hidden features to give; None stands for the last map.

    Attributes:
        classes: their names, in the order of the logits.
        named: the folder really names its classes.
        kind: of the task.
        layers: names of the hidden features, resolved, each once.
        last_map: name of the default hint layer: the last stage, or `pooled` where there are no stages.
        shapes: shape of every feature that can be read without tapping more, by name.
        folder: where the network lies.
        sha256: of the weights file.
        score: what the folder records about its quality, if anything.

    Raises:
        UserError: there is no such layer, or the folder's score.json makes no sense.
    """

    def __init__(self, network: TeacherNetwork, folder: Path, layers: Sequence[str | None] = ()) -> None:
        super().__init__()
        self.backbone: Backbone = network.backbone
        self.head = network.head
        self._network = network
        self.classes, self.named, self.kind = network.classes, network.named, network.kind
        self.folder = folder
        self.sha256 = sha256(self.file)
        self.score: RecordedScore | None = read_score(folder)
        self.last_map = self.backbone.last
        self.layers = tuple(dict.fromkeys(layer or self.last_map for layer in layers))
        self.backbone.tap((*network.needs, *self.layers))
        freeze(self)

    @property
    def file(self) -> Path:
        """The weights."""
        return self.folder / WEIGHTS

    @property
    def inputs(self) -> InputContract:
        """What the network was trained on."""
        return self.backbone.inputs

    @property
    def shapes(self) -> dict[str, FeatureShape]:
        """Shape of every feature that can be read without tapping more, by name."""
        return self.backbone.shapes

    @property
    def fingerprint(self) -> str:
        """Changes with everything that changes an answer: weights, input contract, layers, head."""
        parts = [self.sha256, self.inputs.to_dict(), self.layers, self.kind, self.classes]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @torch.no_grad()
    def forward(self, images: Tensor) -> TeacherOutput:
        """[R, 3, H, W] in [0, 1] -> logits as the network's head gives them, and the features in `layers`.

        `no_grad` and not `inference_mode`, whose tensors could not enter a trainable adapter.
        """
        features = self.backbone(images)
        return TeacherOutput(self.head(features), {layer: features[layer] for layer in self.layers})

    def train(self, mode: bool = True) -> "Teacher":
        """A teacher stays in evaluation mode, whatever a training loop asks of the modules around it."""
        return super().train(False)

    def reading(self, inputs: InputContract) -> "Teacher":
        """The same network, weights shared, behind another input contract and without hidden features.

        For the check, which tries the usual mistakes when a teacher scores badly.
        """
        backbone = Backbone(self.backbone.model, inputs)
        return Teacher(replace(self._network, backbone=backbone), self.folder)

    def layer_names(self) -> list[str]:
        """Every name that a hint may use."""
        return self.backbone.layer_names()

    def describe(self) -> dict[str, Any]:
        """What was really loaded, for teachers.json."""
        return {
            "file": str(self.file.resolve()),
            "sha256": self.sha256,
            "classes": list(self.classes),
            "input": self.inputs.to_dict(),
        }
