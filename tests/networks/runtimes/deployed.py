"""A small classifier, as trained, and the ways in which it is deployed."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

SIZE = 16


class Classifier(nn.Module):
    """Its ReLU writes into the output of the normalisation; dropout and BatchNorm differ while training."""

    def __init__(self, classes: int = 4, returns: str = "tensor") -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, classes)
        self.returns = returns

    def forward(self, images: Tensor) -> Any:
        features = self.act(self.bn(self.conv(images)))
        logits = self.head(self.drop(features.mean((2, 3))))
        if self.returns == "tuple":
            return logits, features
        if self.returns == "dict":
            return {"logits": logits, "features": features}
        return logits


def trained(network: nn.Module) -> nn.Module:
    """Give the BatchNorm layers statistics of some data; returns the network in evaluation mode."""
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.rand(8, 3, SIZE, SIZE) * 3 - 1)
    return network.eval()


def images(rows: int = 3) -> Tensor:
    return torch.rand(rows, 3, SIZE, SIZE)


def save_onnx(network: nn.Module, path: Path, *, fixed: bool = False) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (images(2),),
            path,
            dynamo=True,
            verbose=False,
            dynamic_shapes=None if fixed else ({0: "batch"},),
        )
    return path


def save_openvino(onnx: Path, path: Path) -> Path:
    """Converted from the ONNX file, as deployed networks mostly are."""
    import openvino

    openvino.save_model(openvino.convert_model(onnx), path, compress_to_fp16=False)
    return path


def save_exported(network: nn.Module, path: Path, *, fixed: bool = False, **options: Any) -> Path:
    shapes = None if fixed else ({0: Dim.DYNAMIC},)
    torch.export.save(torch.export.export(network, (images(2),), dynamic_shapes=shapes), path, **options)
    return path


def save_torchscript(network: nn.Module, path: Path, how: str, **options: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if how == "trace":
            program = torch.jit.trace(network, images(2), check_trace=False)
        else:
            program = torch.jit.script(network)
        if how == "freeze":
            program = torch.jit.freeze(program)
        torch.jit.save(program, path, **options)
    return path


def inner(network: nn.Module, layer: str, batch: Tensor) -> Tensor:
    """What a layer of the eager network gives, before anything writes into it."""
    seen: list[Tensor] = []
    handle = network.get_submodule(layer).register_forward_hook(lambda *call: seen.append(call[2].clone()))
    with torch.no_grad():
        network(batch)
    handle.remove()
    return seen[0]
