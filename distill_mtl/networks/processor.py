"""The input contract of a network that comes with a program for its pictures: an image processor, a transform.

The program is not read but run. Plain colours show what it does to a pixel's value, ramps which part of a picture it
keeps; a last picture shows whether our own pipeline gives the same pixels. So every processor of a library counts for
what it does, whatever its settings are called.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from distill_mtl.errors import UserError
from distill_mtl.networks.inputs import InputContract, Preprocess

Processor = Callable[[Tensor], Tensor]
"""A picture, uint8 [3, H, W] -> what the network sees of it, float [3, h, w]."""
Interpolation = Literal["nearest", "bilinear", "bicubic"]

TOLERANCE = 4 / 255
"""Largest difference, as a share of white, between the pixels of a processor and ours, beside what a shift by one pixel
makes: processors round to 8 bits between their steps, and to whole pixels where they cut."""
_SIDE = 640
_NOISE = 16  # of 255
_ODD = (301, 407)


def contract_of_processor(
    process: Processor, interpolation: Interpolation, name: str, *, dense: bool, verify: bool = True
) -> dict[str, Any]:
    """Keys of the `InputContract` that a processor follows; without `size` where it keeps that of the picture.

    Args:
        process: run on pictures of 300 to 1,280 pixels a side.
        interpolation: how it resizes.
        name: of the processor, for the message.
        dense: the network answers with a map, which lies over the view: a crop is left out, and a picture that keeps
            its proportions counts as a square one.
        verify: compare the pixels.

    Raises:
        UserError: it mixes colours or does something else that no contract says.
    """
    found = _colours(process, name)
    size = _size(process(_grey(_SIDE, _SIDE)))
    if size == _size(process(_grey(_SIDE - 64, _SIDE - 64))):
        found |= {"size": size, "interpolation": interpolation, "resize": "squash", "crop": 1.0}
        found |= {} if dense else _geometry(process, found)
    if verify and "size" in found:
        _compare(process, InputContract.from_dict(found), name, square=dense or found["resize"] == "squash")
    return found


def _colours(process: Processor, name: str) -> dict[str, Any]:
    """Order of the channels, and mean and std for pixels from 0 to 1."""
    black = _middle(process(_plain(0, 0, 0)))
    gains = torch.stack(
        [
            _middle(process(_plain(*(255 * (place == channel) for place in range(3))))) - black
            for channel in range(3)
        ],
        1,
    )
    orders = {"rgb": torch.arange(3), "bgr": torch.arange(2, -1, -1)}
    for channels, order in orders.items():
        gain = gains[torch.arange(3), order] if gains.shape == (3, 3) else torch.zeros(3)
        others = gains.abs().sum() - gain.abs().sum()
        if gain.min() > 0 and others < 1e-3 * gain.sum():
            mean, std = -black / gain, 1 / gain
            return {"channels": channels, "mean": _rounded(mean), "std": _rounded(std), "white": 1.0}
    raise UserError(
        f"{name} mixes the colours of a picture, which no input contract says. Give the network `input`."
    )


def _geometry(process: Processor, found: dict[str, Any]) -> dict[str, Any]:
    """How a picture of another shape gets the size, and the share of it that is seen."""
    height, width = found["size"]
    wide = process(_grey(_SIDE, 2 * _SIDE))
    if _size(wide) != (height, width):
        return {}  # proportions are kept: the same as stretched, for a square view
    shares = [_seen(process, found, vertical=vertical, wide=False) for vertical in (True, False)]
    wide_shares = [_seen(process, found, vertical=vertical, wide=True) for vertical in (True, False)]
    resized = max(height, round(height / shares[0]))
    if wide_shares[1] < 0.75 * shares[1]:
        return {"resize": "crop", "crop": height / resized}
    padded = wide_shares[0] > 1.5 * shares[0]
    return {"resize": "pad" if padded else "squash", "crop": height / resized}


def _seen(process: Processor, found: dict[str, Any], *, vertical: bool, wide: bool) -> float:
    """The share of a picture's height or width that is seen, from the slope of a ramp."""
    height, width = _SIDE, _SIDE * (2 if wide else 1)
    side = height if vertical else width
    ramp = torch.linspace(0, 255 - _NOISE, side)
    # Noise, and the mean of many lines: 8 bits of one line would round a slope near 1 to 1.
    noise = torch.rand(height, width, generator=torch.Generator().manual_seed(0)) * _NOISE
    picture = (
        (noise + (ramp[:, None] if vertical else ramp)).round().to(torch.uint8).expand(3, -1, -1).contiguous()
    )
    line = process(picture)[1].double().mean(1 if vertical else 0) * found["std"][1] * 255 / (255 - _NOISE)
    inner = line[len(line) // 8 : -(len(line) // 8)]
    places = torch.arange(len(inner), dtype=torch.double)
    slope = torch.cov(torch.stack([places, inner]))
    return float(slope[0, 1] / slope[0, 0]) * len(line) * (side - 1) / side


def _compare(process: Processor, contract: InputContract, name: str, *, square: bool) -> None:
    """Raises UserError: on a picture of an odd size our pixels are others."""
    height, width = (_ODD[0], _ODD[0]) if square else _ODD
    noise = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(noise, (height, width), mode="bicubic").clamp(0, 1)
    picture = (smooth * 255).round().to(torch.uint8)
    theirs, ours = process(picture[0]), Preprocess(contract)(picture.float() / 255)[0]
    std = torch.tensor(contract.std)[:, None, None]
    difference = ((theirs - ours) * std).abs().max() if theirs.shape == ours.shape else torch.tensor(1.0)
    shifted = max(((ours * std).diff(dim=axis).abs().max() for axis in (1, 2)), default=0.0)
    if difference > TOLERANCE + 1.5 * shifted:
        raise UserError(
            f"{name} does to pictures what no input contract says: of a picture of {height}x{width} our pixels "
            f"differ by {float(difference):.2f} of white. Give the network `input: {{size: ..., mean: ..., std: ...}}`."
        )


def _plain(*colour: int) -> Tensor:
    return torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, _SIDE, _SIDE).contiguous()


def _grey(height: int, width: int) -> Tensor:
    return torch.full((3, height, width), 128, dtype=torch.uint8)


def _middle(image: Tensor) -> Tensor:
    return image[:, image.shape[1] // 2, image.shape[2] // 2].double()


def _size(image: Tensor) -> tuple[int, int]:
    return int(image.shape[1]), int(image.shape[2])


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 6) + 0.0 for value in values.tolist()]
