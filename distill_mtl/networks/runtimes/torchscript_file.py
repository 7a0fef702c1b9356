"""A network that `torch.jit.trace` or `torch.jit.script` saved.

The format is a program with weights inside: it gives what it returns and nothing else.
"""

import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill_mtl.errors import UserError, brief
from distill_mtl.networks.modes import freeze
from distill_mtl.networks.runtime import (
    RUNTIMES,
    DeclaredInput,
    Runtime,
    named,
    read_extra_files,
    saved_while_training,
    torch_archive,
)

_OTHER_ENDINGS = (".pt", ".pth", ".torchscript", ".jit")

_SWITCHES = {
    "aten::batch_norm": 5,
    "aten::dropout": 2,
    "aten::dropout_": 2,
    "aten::feature_dropout": 2,
    "aten::alpha_dropout": 2,
}
"""Operations with a training mode, and the argument that sets it."""


@RUNTIMES.register(".ts")
class TorchScriptRuntime(Runtime):
    """Opening the file and running it runs the program in it: only for files whose origin you trust.

    Args:
        path: the file.

    Raises:
        UserError: no such file, no TorchScript, or a trace that was recorded in training mode.
    """

    words = "TorchScript"
    is_program = True

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.declared = DeclaredInput(notes=read_extra_files(path))
        self.files, self.outputs = (path,), ()
        self._device = torch.device("cpu")
        self.network = _load(path, self._device)
        freeze(self)
        _refuse_training(self.network, path)

    @classmethod
    def also_reads(cls, path: Path) -> bool:
        return path.suffix.lower() in _OTHER_ENDINGS and _holds_code(path)

    def names(self) -> list[str]:
        return list(self.outputs)

    def tap(self, names: Sequence[str]) -> None:
        inner = [name for name in names if name not in self.outputs]
        if inner:
            given = f" ({', '.join(self.outputs)})" if self.outputs else ""
            raise UserError(
                f"{self.files[0]} cannot give '{inner[0]}': TorchScript gives only what it returns{given}. "
                "Name the network as .pt2, as ONNX or as a module instead, or ask for no hints: `hints: []`."
            )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        results = named(self.network(images), self.files[0])
        self.outputs = self.outputs or tuple(results)
        return results

    def moved(self, device: torch.device) -> None:
        # Read again, because the weights of a frozen program (torch.jit.freeze) are constants in its
        # code, which only the reader can put elsewhere.
        if device != self._device:
            self.network, self._device = _load(self.files[0], device), device
            freeze(self)


def _holds_code(path: Path) -> bool:
    """TorchScript often ends in .pt, as pickles do; only the former holds code beside its tensors."""
    if not zipfile.is_zipfile(path):
        return False
    with torch_archive(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _load(path: Path, device: torch.device) -> Any:
    try:
        with warnings.catch_warnings():
            # PyTorch calls the format deprecated, which the user of a teacher cannot change.
            warnings.simplefilter("ignore", FutureWarning)
            return torch.jit.load(path, map_location=device)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path} cannot be opened as TorchScript: {brief(error)}.") from error


def _refuse_training(network: Any, path: Path) -> None:
    """`eval()` reaches a scripted network, but a trace has the mode of its recording written into it."""
    graph = network.inlined_graph
    for kind, position in _SWITCHES.items():
        for node in graph.findAllNodes(kind):
            inputs = list(node.inputs())
            # Without running statistics (InstanceNorm) those of the batch are what is meant.
            meant = kind == "aten::batch_norm" and inputs[3].type().kind() == "NoneType"
            if inputs[position].toIValue() is True and not meant:
                raise saved_while_training(path, kind.removeprefix("aten::"), "torch.jit.trace")
