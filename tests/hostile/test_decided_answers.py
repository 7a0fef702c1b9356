"""A file that gives the chosen class in place of logits: the message says what it is, and what to export."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from distill_mtl.errors import UserError
from distill_mtl.networks.inputs import InputContract
from distill_mtl.networks.runtime import DeclaredInput, Runtime
from distill_mtl.networks.runtime_network import RuntimeNetwork
from distill_mtl.recipe.schema import OutputSection


class Decided(Runtime):
    """Both the chosen class and its logits."""

    words, is_program = "a toy", False

    def __init__(self, dense: bool) -> None:
        super().__init__()
        self.dense = dense
        self.files, self.declared, self.outputs = (Path("toy"),), DeclaredInput(), ("label", "scores")

    def names(self) -> list[str]:
        return list(self.outputs)

    def tap(self, names: object) -> None:
        pass

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        scores = images if self.dense else images.mean((2, 3))
        return {"label": scores.argmax(1), "scores": scores}


@pytest.mark.parametrize("dense", [True, False])
def test_integers_are_no_logits(dense: bool) -> None:
    inputs = InputContract((8, 8), (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(UserError, match=r"'label'.*int64.*ArgMax.*Export the logits.*label, scores"):
        RuntimeNetwork(Decided(dense), inputs, OutputSection())
    network = RuntimeNetwork(Decided(dense), inputs, OutputSection(name="scores"))
    assert (network.width, network.dense) == (3, dense)
    assert network(torch.rand(2, 3, 8, 8))["logits"].shape[:2] == (2, 3)
