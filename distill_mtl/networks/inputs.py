"""The input contract of a network: size, resize, normalisation, channels, layout. Every teacher and student has one.

Batches hold images that are not normalised; `Preprocess` turns the same view into what one network
was trained on, inside the network, so that no caller can forget it or apply it twice.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NamedTuple

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn import functional as F

from distill_mtl.errors import UserError
from distill_mtl.geometry.resize import resize_weights, resized_by_products
from distill_mtl.networks.modes import recorded

LARGEST_SIDE = 16_384
"""Pixels of the longest side of an image that a network may ask for: three gigabytes as float32."""
_STRIP = 4
"""Times the length that is seen of a view, the most of it that is resized."""
# Luma of ITU-R BT.601, PIL's own conversion to grey.
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class InputContract:
    """The images that a network was trained on.

    Attributes:
        size: height and width in pixels.
        mean: per channel in the network's order, subtracted from pixels of which white is `white`.
        std: per channel in the network's order, divided by after that.
        interpolation: how other sizes are brought to `size`, with antialiasing.
        channels: order of the colours, one channel of luma (grey), or three that all hold it (grey3).
        white: what white is before normalisation: 1.0, or 255.0 for networks of the Caffe line.
        resize: how a view of another shape gets `size`: stretched, its largest centred part, or letterboxed.
        pad: what lies beside a letterboxed view, from 0 (black) to 255 (white).
        crop: side of the centred part of the view that is seen.
        layout: where the channels stand.
        dtype: of the pixels; uint8 is rounded.
        batch: the only number of rows that the network takes; None: any.
    """

    __pydantic_config__ = ConfigDict(allow_inf_nan=False)

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    channels: Literal["rgb", "bgr", "grey", "grey3"] = "rgb"
    white: float = 1.0
    resize: Literal["squash", "crop", "pad"] = "squash"
    pad: int = 0
    crop: float = 1.0
    layout: Literal["nchw", "nhwc"] = "nchw"
    dtype: Literal["float32", "float16", "uint8"] = "float32"
    batch: int | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a contract that no image can meet."""
        depth = self.depth
        if not len(self.mean) == len(self.std) == depth:
            raise ValueError(
                f"{self.channels} images need {depth} means and stds, found {self.mean}, {self.std}"
            )
        if max(self.size) > LARGEST_SIDE or not 1 <= (self.batch or 1) <= LARGEST_SIDE:
            raise ValueError(
                f"images have at most {LARGEST_SIDE:,} pixels a side and a batch as many rows, found {self.size}, "
                f"{self.batch}"
            )
        if min(self.std) <= 0 or min(self.size) < 1 or self.white <= 0 or not 0 < self.crop <= 1:
            raise ValueError(
                "std, size, white and crop must be positive and crop at most 1, "
                f"found {self.std}, {self.size}, {self.white}, {self.crop}"
            )
        if not 0 <= self.pad <= 255:
            raise ValueError(f"pad is a level from 0 to 255, found {self.pad}")
        if self.dtype == "uint8" and (self.white, *self.mean, *self.std) != (
            255.0,
            *[0.0] * depth,
            *[1.0] * depth,
        ):
            raise ValueError("uint8 pixels are whole numbers from 0 to 255: white is 255, mean 0 and std 1")

    @property
    def depth(self) -> int:
        """Channels of an image."""
        return 1 if self.channels == "grey" else 3

    @property
    def whole_view(self) -> bool:
        """The network sees all of a square view and nothing else, so that its maps lie over the view's pixels."""
        return self.resize == "squash" and self.crop == 1.0

    @classmethod
    def from_timm(cls, cfg: Mapping[str, Any], size: tuple[int, int] | None = None) -> "InputContract":
        """The contract in a `pretrained_cfg` of timm, with timm's own defaults; `size` overrides its size.

        timm's `crop_pct` is left out: what part of a picture is seen is decided by the data's own resize,
        alike for all networks. A grey network with means of three colours gets their average.

        Raises:
            UserError: the network takes neither 1 nor 3 channels, or the values make no contract.
        """
        try:
            return cls._from_timm(cfg, size)
        except (TypeError, ValueError) as error:
            raise UserError(f"the input in its pretrained_cfg is invalid: {error}.") from error

    @classmethod
    def _from_timm(cls, cfg: Mapping[str, Any], size: tuple[int, int] | None) -> "InputContract":
        depth, height, width = cfg.get("input_size") or (3, 224, 224)
        if depth not in (1, 3):
            raise UserError(
                f"the network takes images of {depth} channels; only 1 (grey) and 3 (RGB) are known."
            )
        mean = tuple(cfg.get("mean") or IMAGENET_DEFAULT_MEAN)
        std = tuple(cfg.get("std") or IMAGENET_DEFAULT_STD)
        if depth == 1:
            mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
        mode = cfg.get("interpolation", "bilinear")
        return cls(
            size=size or (height, width),
            mean=mean,
            std=std,
            # timm also knows lanczos and hamming, which torch does not; bicubic is their nearest.
            interpolation=mode if mode in ("nearest", "bilinear", "bicubic") else "bicubic",
            channels="grey" if depth == 1 else "rgb",
        )

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> "InputContract":
        """The inverse of `to_dict`. Raises ValueError for invalid keys or values."""
        names = {field.name for field in fields(cls)}
        if unknown := sorted(set(entry) - names):
            raise ValueError(f"unknown keys {', '.join(unknown)}")
        try:
            return _CONTRACT.validate_python(dict(entry))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }


_CONTRACT = TypeAdapter(InputContract)


class Preprocess(nn.Module):
    """Images as batches hold them -> images as one network wants them. Differentiable, without parameters.

    Its buffers follow the network's device and precision and stay out of its state dict, because the
    contract is kept beside the weights in readable form.
    """

    mean: Tensor
    std: Tensor
    luma: Tensor
    rows: Tensor | None
    columns: Tensor | None

    def __init__(self, contract: InputContract) -> None:
        super().__init__()
        self.contract = contract
        mean, std = torch.tensor(contract.mean), torch.tensor(contract.std)
        self.register_buffer("mean", mean.view(-1, 1, 1) / contract.white, persistent=False)
        self.register_buffer("std", std.view(-1, 1, 1) / contract.white, persistent=False)
        self.register_buffer("luma", torch.tensor(_LUMA).view(-1, 1, 1), persistent=False)
        self.register_buffer("rows", None, persistent=False)
        self.register_buffer("columns", None, persistent=False)

    def only_views_of(self, size: tuple[int, int]) -> None:
        """Before this is recorded as a graph for views of one height and width: the weights of its resize become
        constants."""
        if self.contract.interpolation != "nearest":
            self.rows, self.columns = (
                self._weights(*sides) for sides in zip(size, self.contract.size, strict=True)
            )

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3 or 1, H, W] float in [0, 1], any size -> what the contract says, nchw or nhwc.

        Raises:
            TypeError: the images are not floating point.
            ValueError: they are not a batch of grey or RGB images.
        """
        if not images.is_floating_point():
            raise TypeError(
                f"expected floating point images in [0, 1], found {images.dtype}; divide uint8 by 255"
            )
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"expected images [B, 3, H, W] or [B, 1, H, W], found {list(images.shape)}")
        images = self._channels(self._framed(images))
        if self.contract.dtype == "uint8":
            images = (images * 255).round().to(torch.uint8)
        else:
            images = ((images - self.mean) / self.std).to(
                self.mean.dtype if self.contract.dtype == "float32" else torch.float16
            )
        return images.permute(0, 2, 3, 1).contiguous() if self.contract.layout == "nhwc" else images

    def _framed(self, images: Tensor) -> Tensor:
        """The part of the view that the network sees, in its size: resized, then cut, as torchvision and timm do, or
        letterboxed."""
        if self.contract.whole_view:
            return self._resized(images, self.contract.size)
        images = _centred(images, longest_part(images.shape[-2:], self.contract))
        inside = resized_view(images.shape[-2:], self.contract)
        images = _centred(self._resized(images, inside), self.contract.size)
        top, left = (
            (side - seen) // 2 for side, seen in zip(self.contract.size, images.shape[-2:], strict=True)
        )
        down, right = (
            side - seen - before
            for side, seen, before in zip(self.contract.size, images.shape[-2:], (top, left), strict=True)
        )
        return F.pad(images, (left, right, top, down), value=self.contract.pad / 255)

    def _resized(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        if not recorded() and images.shape[-2:] == size:
            return images
        if self.contract.interpolation == "nearest":
            return F.interpolate(images, size, mode="nearest-exact")
        if recorded():
            rows = self._weights(images.shape[-2], size[0]) if self.rows is None else self.rows
            columns = self._weights(images.shape[-1], size[1]) if self.columns is None else self.columns
            resized = resized_by_products(images, rows, columns)
        else:
            resized = F.interpolate(images, size, mode=self.contract.interpolation, antialias=True)
        # Cubic kernels overshoot at edges; a decoded picture never leaves [0, 1].
        return resized.clamp(0, 1)

    def _weights(self, length: int, size: int) -> Tensor:
        assert self.contract.interpolation != "nearest"
        return resize_weights(length, size, self.contract.interpolation, like=self.mean)

    def _channels(self, images: Tensor) -> Tensor:
        if self.contract.channels in ("grey", "grey3") and images.shape[1] == 3:
            images = (images * self.luma).sum(1, keepdim=True)
        if images.shape[1] == 1:
            return images.expand(-1, self.contract.depth, -1, -1)
        return images.flip(1) if self.contract.channels == "bgr" else images


def resized_view(view: Sequence[int], contract: InputContract) -> tuple[int, int]:
    """Height and width to which a view is resized before its centre is cut out, or it is letterboxed."""
    full = [max(1, round(side / contract.crop)) for side in contract.size]
    if contract.resize == "squash":
        return full[0], full[1]
    scales = [side / seen for side, seen in zip(full, view, strict=True)]
    chosen = max(scales) if contract.resize == "crop" else min(scales)
    # The side that decides has its size to the pixel; torchvision and PIL cut off the other's fraction.
    sides = [
        whole if scale == chosen else max(1, int(seen * chosen))
        for whole, seen, scale in zip(full, view, scales, strict=True)
    ]
    return sides[0], sides[1]


def longest_part(view: Sequence[int], contract: InputContract) -> tuple[int, int]:
    """The centre of a view that is worth resizing where the rest will be cut off: a strip of a panorama."""
    height, width = view
    if contract.resize != "crop":
        return height, width
    aspect = contract.size[1] / contract.size[0]
    return min(height, math.ceil(_STRIP * width / aspect)), min(width, math.ceil(_STRIP * height * aspect))


def _centred(images: Tensor, part: tuple[int, int]) -> Tensor:
    """The centred part of images, as much of it as there is."""
    height, width = images.shape[-2:]
    top, left = (_offset(side, seen) for side, seen in zip((height, width), part, strict=True))
    return images[..., top : top + part[0], left : left + part[1]]


def _offset(side: int, part: int) -> int:
    """Where the centre of so many pixels begins."""
    return max(0, round((side - part) / 2))


class Frame(NamedTuple):
    """A part of an image, in its pixels."""

    top: int
    left: int
    height: int
    width: int


def framing(view: tuple[int, int], contract: InputContract) -> tuple[Frame, Frame]:
    """The part of a view that is resized, and where it lies then in the network's input, beyond it where it is cut."""
    if contract.whole_view:
        return Frame(0, 0, *view), Frame(0, 0, *contract.size)
    part = [min(side, longest) for side, longest in zip(view, longest_part(view, contract), strict=True)]
    inside = resized_view(part, contract)
    top, left = (
        (size - side) // 2 if side < size else -_offset(side, size)
        for size, side in zip(contract.size, inside, strict=True)
    )
    start = [_offset(side, seen) for side, seen in zip(view, part, strict=True)]
    return Frame(start[0], start[1], part[0], part[1]), Frame(top, left, *inside)
