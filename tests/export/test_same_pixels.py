"""The preprocessing inside an exported file gives the pixels of `Preprocess`, in every runtime."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

from distill_mtl.geometry.resize import resize_weights, resized_by_products
from distill_mtl.networks.inputs import InputContract, Preprocess
from distill_mtl.networks.runtimes.onnx_file import OnnxRuntime
from distill_mtl.networks.runtimes.openvino_file import OpenVinoRuntime
from distill_mtl.networks.runtimes.pt2_file import ExportedRuntime
from distill_mtl.networks.runtimes.torchscript_file import TorchScriptRuntime

CONTRACTS = {
    "RGB": InputContract((12, 20), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), interpolation="bilinear"),
    "grey": InputContract((13, 9), (0.45,), (0.25,), interpolation="bicubic", channels="grey"),
}
VIEWS = {
    "smaller": (37, 53),
    "larger": (5, 7),
    "one side each way": (31, 6),
    "its own": (12, 20),
    "a line": (1, 64),
}
RUNTIMES = {
    "onnx": OnnxRuntime,
    "openvino": OpenVinoRuntime,
    "pt2": ExportedRuntime,
    "torchscript": TorchScriptRuntime,
}


class AntialiasedResize(nn.Module):
    """What PyTorch's own exporter makes of the resize."""

    def forward(self, images: Tensor) -> Tensor:
        return F.interpolate(images, (12, 20), mode="bilinear", antialias=True)


def written(network: nn.Module, folder: Path, ending: str) -> Path:
    """For any number of pictures of any size."""
    file, example = folder / f"pixels{ending}", torch.rand(2, 3, 40, 31)
    if ending == ".ts":
        torch.jit.save(torch.jit.trace(network, example, check_trace=False), file)
        return file
    axes = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    program = torch.export.export(network, (example,), dynamic_shapes=(axes,))
    if ending == ".pt2":
        torch.export.save(program, file)
    else:
        torch.onnx.export(program, (example,), output_names=["pixels"], verbose=False).save(file)
    return file


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("pixels")
    endings = {"onnx": ".onnx", "openvino": ".onnx", "pt2": ".pt2", "torchscript": ".ts"}
    made: dict[tuple[str, str], Path] = {}

    def give(colours: str, form: str) -> Path:
        key = (colours, endings[form])
        if key not in made:
            (folder / colours).mkdir(exist_ok=True)
            made[key] = written(Preprocess(CONTRACTS[colours]).eval(), folder / colours, endings[form])
        return made[key]

    return give


@pytest.mark.parametrize("colours", CONTRACTS)
@pytest.mark.parametrize("form", RUNTIMES)
def test_pixels_are_the_same_in_every_runtime(files: Any, form: str, colours: str) -> None:
    runtime = RUNTIMES[form](files(colours, form))
    for name, view in VIEWS.items():
        images = torch.rand(3, 3, *view)
        (pixels,) = runtime(images).values()
        assert torch.allclose(pixels, Preprocess(CONTRACTS[colours])(images), atol=2e-5), name


def test_openvino_leaves_the_antialiasing_of_an_onnx_resize_out(tmp_path: Path) -> None:
    file = written(AntialiasedResize(), tmp_path, ".onnx")
    images = (torch.rand(2, 3, 37, 53) > 0.5).float()
    wanted = AntialiasedResize()(images)
    (right,) = OnnxRuntime(file)(images).values()
    (wrong,) = OpenVinoRuntime(file)(images).values()
    assert torch.allclose(right, wanted, atol=1e-5)
    assert (wrong - wanted).abs().max() > 0.2


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
@pytest.mark.parametrize("view", [*VIEWS.values(), (480, 641), (7, 1001)])
def test_products_resize_as_pytorch_does(kernel: Any, view: tuple[int, int]) -> None:
    images = torch.rand(1, 2, *view)
    rows, columns = (
        resize_weights(side, size, kernel, like=images) for side, size in zip(view, (12, 20), strict=True)
    )
    wanted = F.interpolate(images, (12, 20), mode=kernel, antialias=True)
    assert torch.allclose(resized_by_products(images, rows, columns), wanted, atol=3e-6)


def test_the_weights_of_a_known_view_are_constants() -> None:
    preprocess = Preprocess(CONTRACTS["RGB"])
    preprocess.only_views_of((37, 53))
    images = torch.rand(1, 3, 37, 53)
    program = torch.export.export(preprocess, (images,))
    assert not any("arange" in str(node.target) for node in program.graph.nodes)
    assert torch.allclose(program.module()(images), preprocess(images), atol=1e-5)
