"""The input contract of a processor: what is measured of it, and that our own pipeline then gives the same pixels."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models import get_weight

from distill_mtl.errors import UserError
from distill_mtl.networks.inputs import InputContract, Preprocess
from distill_mtl.networks.processor import contract_of_processor

ODD = ((301, 407), (333, 217), (50, 77), (64, 64))
MODES = {0: "nearest", 2: "bilinear", 3: "bicubic"}


def smooth(height: int, width: int) -> Tensor:
    """A picture [3, H, W] as a photo is: neighbours are alike."""
    noise = torch.rand(1, 3, 7, 7, generator=torch.Generator().manual_seed(1))
    picture = F.interpolate(noise, (height, width), mode="bicubic")[0].clamp(0, 1)
    return (picture * 255).round().to(torch.uint8)


def largest_difference(
    process: Callable[[Tensor], Tensor], contract: InputContract, picture: Tensor
) -> float:
    """Of 255."""
    ours, theirs = Preprocess(contract)(picture[None].float() / 255)[0], process(picture)
    assert ours.shape == theirs.shape
    return float(((ours - theirs) * torch.tensor(contract.std)[:, None, None]).abs().max()) * 255


def of_transformers(kind: str, **settings: Any) -> tuple[Callable[[Tensor], Tensor], str]:
    transformers = pytest.importorskip("transformers")
    processor = getattr(transformers, kind)(**settings)
    return lambda picture: processor(images=picture, return_tensors="pt")["pixel_values"][0], MODES[
        processor.resample
    ]


PROCESSORS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("ViTImageProcessor", {}, {"size": (224, 224), "resize": "squash", "crop": 1.0, "mean": (0.5,) * 3}),
    ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}}, {"resize": "crop", "crop": 224 / 256}),
    ("LevitImageProcessor", {}, {"size": (224, 224), "resize": "crop", "crop": 224 / 256}),
    ("DeiTImageProcessor", {}, {"size": (224, 224), "resize": "squash", "crop": 224 / 256}),
    ("MobileNetV2ImageProcessor", {}, {"interpolation": "bilinear", "resize": "crop", "crop": 224 / 256}),
    ("CLIPImageProcessor", {}, {"resize": "crop", "crop": 1.0, "mean": (0.481455, 0.457828, 0.408211)}),
    ("EfficientNetImageProcessor", {}, {"size": (346, 346), "std": (0.25, 0.25, 0.25)}),
    (
        "MobileViTImageProcessor",
        {"size": {"shortest_edge": 288}},
        {"channels": "bgr", "size": (256, 256), "crop": 256 / 288, "mean": (0.0, 0.0, 0.0)},
    ),
]


@pytest.mark.parametrize(("kind", "settings", "expected"), PROCESSORS, ids=[entry[0] for entry in PROCESSORS])
def test_our_pixels_are_those_of_an_image_processor(
    kind: str, settings: dict[str, Any], expected: dict[str, Any]
) -> None:
    process, mode = of_transformers(kind, **settings)
    contract = InputContract.from_dict(contract_of_processor(process, mode, kind, dense=False))  # type: ignore[arg-type]
    for key, value in expected.items():
        assert getattr(contract, key) == (
            pytest.approx(value, abs=1e-5) if key in ("crop", "std", "mean") else value
        ), key
    # Of an odd number of pixels to cut off, transformers cuts the smaller half first, torchvision the larger.
    tolerance = 12 if contract.resize == "crop" else 2
    for size in ODD:
        assert largest_difference(process, contract, smooth(*size)) <= tolerance, size


@pytest.mark.parametrize(
    ("kind", "settings", "size"),
    [
        ("SegformerImageProcessor", {}, (512, 512)),
        ("DPTImageProcessor", {"keep_aspect_ratio": True, "ensure_multiple_of": 32}, (384, 384)),
    ],
)
def test_of_a_network_with_a_map_the_whole_view_is_seen(
    kind: str, settings: dict[str, Any], size: tuple[int, int]
) -> None:
    process, mode = of_transformers(kind, **settings)
    contract = InputContract.from_dict(contract_of_processor(process, mode, kind, dense=True))  # type: ignore[arg-type]
    assert contract.whole_view
    assert contract.size == size
    for side in (301, 217, 64):
        assert largest_difference(process, contract, smooth(side, side)) <= 2


@pytest.mark.parametrize(
    "name",
    [
        "ResNet50_Weights.IMAGENET1K_V2",
        "Inception_V3_Weights.IMAGENET1K_V1",
        "ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1",
    ],
)
def test_our_pixels_are_those_of_torchvisions_transforms(name: str) -> None:
    transform = get_weight(name).transforms()
    contract = InputContract.from_dict(
        contract_of_processor(transform, transform.interpolation.value, name, dense=False)
    )
    assert (contract.size, contract.resize) == ((transform.crop_size[0],) * 2, "crop")
    assert contract.crop == transform.crop_size[0] / transform.resize_size[0]
    for size in ODD:
        assert largest_difference(transform, contract, smooth(*size)) <= 1


def test_a_processor_that_keeps_the_size_of_a_picture_says_none() -> None:
    found = contract_of_processor(lambda picture: picture / 127.5 - 1, "bilinear", "theirs", dense=False)
    assert "size" not in found
    assert (found["mean"], found["std"]) == ([0.5] * 3, [0.5] * 3)


def grey(picture: Tensor) -> Tensor:
    return (picture.float().mean(0, keepdim=True) / 255).expand(3, -1, -1)


def mirrored(picture: Tensor) -> Tensor:
    return F.interpolate(picture[None].flip(3) / 255, (32, 32), mode="bilinear", antialias=True)[0]


@pytest.mark.parametrize(
    ("process", "complaint"),
    [
        (grey, "theirs mixes the colours"),
        (mirrored, "theirs does to pictures what no input contract says: .*of 301x"),
    ],
)
def test_what_no_contract_says_is_refused(process: Callable[[Tensor], Tensor], complaint: str) -> None:
    with pytest.raises(UserError, match=f"{complaint}.*`input"):
        contract_of_processor(process, "bilinear", "theirs", dense=False)
