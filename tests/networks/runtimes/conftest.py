from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
import timm
import torch
from deployed import Classifier, save_exported, save_onnx, save_openvino, save_torchscript, trained
from safetensors.torch import save_file
from torch import nn

from distill_mtl.networks.runtime import Runtime
from distill_mtl.networks.runtimes.onnx_file import OnnxRuntime
from distill_mtl.networks.runtimes.openvino_file import OpenVinoRuntime
from distill_mtl.networks.runtimes.own_module import ModuleRuntime
from distill_mtl.networks.runtimes.pt2_file import ExportedRuntime
from distill_mtl.networks.runtimes.torchscript_file import TorchScriptRuntime


@dataclass(frozen=True)
class Deployment:
    """One trained network, and how to open each of its files."""

    network: nn.Module
    folder: Path
    open: dict[str, Callable[[], Runtime]]


def deploy(
    network: nn.Module, folder: Path, forms: list[str], spec: str, args: dict[str, object]
) -> Deployment:
    save_file(network.state_dict(), folder / "weights.safetensors")
    for form in forms:
        if form == "onnx" and find_spec("onnxruntime"):
            save_onnx(network, folder / "network.onnx")
        elif form == "openvino" and find_spec("openvino"):
            save_openvino(folder / "network.onnx", folder / "network.xml")
        elif form == "pt2":
            save_exported(network, folder / "network.pt2")
        elif form in ("trace", "script", "freeze"):
            save_torchscript(network, folder / f"{form}.pt", form)

    def open_onnx() -> Runtime:
        pytest.importorskip("onnxruntime")
        return OnnxRuntime(folder / "network.onnx")

    def open_openvino() -> Runtime:
        pytest.importorskip("openvino")
        return OpenVinoRuntime(folder / "network.xml")

    every: dict[str, Callable[[], Runtime]] = {
        "onnx": open_onnx,
        "openvino": open_openvino,
        "pt2": lambda: ExportedRuntime(folder / "network.pt2"),
        "trace": lambda: TorchScriptRuntime(folder / "trace.pt"),
        "script": lambda: TorchScriptRuntime(folder / "script.pt"),
        "freeze": lambda: TorchScriptRuntime(folder / "freeze.pt"),
        "module": lambda: ModuleRuntime(spec, args, folder / "weights.safetensors"),
    }
    return Deployment(network, folder, {form: every[form] for form in forms})


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    torch.manual_seed(1)
    forms = ["onnx", "openvino", "pt2", "trace", "script", "freeze", "module"]
    folder = tmp_path_factory.mktemp("toy")
    return deploy(trained(Classifier()), folder, forms, "deployed:Classifier", {"classes": 4})


@pytest.fixture(scope="session")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    torch.manual_seed(2)
    args = {"model_name": "test_resnet", "num_classes": 4}
    forms = ["onnx", "pt2", "trace", "module"]
    folder = tmp_path_factory.mktemp("resnet")
    return deploy(trained(timm.create_model(**args)), folder, forms, "timm:create_model", args)
