"""A picture with an answer laid over it, and below it what its colours mean."""

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from distill_mtl.geometry.views import View
from distill_mtl.tasks.base import Shown

_SHARE = 0.6  # of the answer's colours in the mixture
_UNSEEN = 0.35  # of the light that is left where the network saw nothing
_LEAST = 256  # pixels of the longer side; smaller pictures are enlarged, so that a legend fits
_TEXT, _GAP, _SWATCH = 12, 6, 12
_PAPER, _INK, _EDGE = "white", "#202020", "#909090"

Color = tuple[int, int, int]


def overlay(whole: Tensor, view: View, image: Tensor, shown: Shown) -> Image.Image:
    """RGB, at least 256 pixels on its longer side: all of the picture, dark where the network did not see it.

    Args:
        whole: uint8 [3, height, width], the picture.
        view: what the network saw of it.
        image: uint8 [3, H, W], the view in the picture's own pixels.
        shown: with a picture of the view's size.
    """
    assert shown.picture is not None
    mixed = shown.picture if shown.over_image else _mixed(image, shown.picture)
    placed = _placed(mixed, whole, view)
    picture = Image.fromarray(placed.permute(1, 2, 0).contiguous().numpy())
    times = -(-_LEAST // max(picture.size))
    picture = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    font = ImageFont.load_default(size=_TEXT)
    entries: list[tuple[str, Color | None]] = [*shown.legend.colors.items()] or [(shown.caption, None)]
    places, below = _places([name for name, _ in entries], font, picture.width)
    sheet = Image.new("RGB", (picture.width, picture.height + below), _PAPER)
    sheet.paste(picture, (0, 0))
    pen = ImageDraw.Draw(sheet)
    for (name, color), (left, top) in zip(entries, places, strict=True):
        top += picture.height
        if color is not None:
            pen.rectangle((left, top, left + _SWATCH, top + _SWATCH), color, _EDGE)
        pen.text((left + _SWATCH + 4, top - 1), name, _INK, font=font)
    return sheet


def _mixed(image: Tensor, answer: Tensor) -> Tensor:
    return torch.lerp(image.float(), answer.float(), _SHARE).round().to(torch.uint8)


def _placed(answer: Tensor, whole: Tensor, view: View) -> Tensor:
    """The view's pixels where they belong in the picture; what lies beyond its border is dropped."""
    top, left, bottom, right = view.inside((whole.shape[1], whole.shape[2]))
    placed = (whole.float() * _UNSEEN).round().to(torch.uint8)
    rows, columns = slice(top - view.top, bottom - view.top), slice(left - view.left, right - view.left)
    placed[:, top:bottom, left:right] = answer[:, rows, columns]
    return placed


def _places(
    names: list[str], font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int
) -> tuple[list[tuple[int, int]], int]:
    """Left and top of each entry of the legend, line by line, and the height of all of it."""
    places, left, top = list[tuple[int, int]](), _GAP, _GAP
    for name in names:
        wide = _SWATCH + 4 + int(font.getlength(name)) + 2 * _GAP
        if left > _GAP and left + wide > width:
            left, top = _GAP, top + _TEXT + _GAP
        places.append((left, top))
        left += wide
    return places, top + _TEXT + 2 * _GAP
