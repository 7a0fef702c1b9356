"""Drawings: boxes and points on an image, colours for class numbers and for measurements."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from distill_mtl.tasks.base import Legend, Shown
from distill_mtl.tasks.maps import map_size
from distill_mtl.tasks.objects import corners


def draw_objects(objects: Tensor, image: Tensor, classes: Sequence[str]) -> Shown:
    """The picture with the outlines of the objects, and how many there are of each class.

    Args:
        objects: [N, 5], as shares of the picture; those without size are drawn as crosses.
        image: uint8 [3, H, W].
        classes: names.
    """
    height, width = map_size(image)
    picture = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    pen = ImageDraw.Draw(picture)
    known = named_colors(classes, first=1)
    arm = max(1, max(height, width) // 32)
    scale = torch.tensor([width, height, width, height])
    places = (corners(objects).cpu() * scale).tolist()
    for (number, _, _, wide, tall), place in zip(objects.tolist(), places, strict=True):
        color = known[classes[int(number)]]
        left, top, right, bottom = (int(side) for side in place)
        if wide or tall:
            right, bottom = max(left, right - 1), max(top, bottom - 1)  # the last pixel that belongs to it
            pen.rectangle((left, top, right, bottom), outline=color)
        else:
            pen.line((left - arm, top, left + arm, top), fill=color)
            pen.line((left, top - arm, left, top + arm), fill=color)
    counts = Counter(classes[int(number)] for number in objects[:, 0].tolist())
    caption = ", ".join(f"{counts[name]} {name}" for name in classes if counts[name]) or "nothing"
    legend = Legend({name: known[name] for name in classes if counts[name]})
    return Shown(torch.from_numpy(np.array(picture)).permute(2, 0, 1), caption, legend, over_image=True)


def colors(count: int) -> Tensor:
    """uint8 [count, 3]: black for the first, then colours as PASCAL VOC's colour map has them.

    Bits of the class number, three by three, become the high bits of red, green and blue (Everingham et al.
    2010, VOC development kit).
    """
    numbers = torch.arange(count)
    table = torch.zeros(count, 3, dtype=torch.int64)
    for place in range(8):
        for channel in range(3):
            table[:, channel] |= ((numbers >> (3 * place + channel)) & 1) << (7 - place)
    return table.to(torch.uint8)


def named_colors(names: Sequence[str], *, first: int = 0) -> dict[str, tuple[int, int, int]]:
    """Name -> its colour in `colors`, beginning with colour number `first`."""
    table = colors(first + len(names))[first:].tolist()
    return {name: (red, green, blue) for name, (red, green, blue) in zip(names, table, strict=True)}


def paint_classes(classes: Tensor, ignored: int) -> Tensor:
    """uint8 [3, H, W] of class numbers int64 [H, W]; ignored pixels are grey."""
    valid = classes != ignored
    table = colors(int(classes[valid].max()) + 1 if valid.any() else 1)
    picture = torch.full((*classes.shape, 3), _GREY, dtype=torch.uint8)
    picture[valid.cpu()] = table[classes[valid].cpu()]
    return picture.permute(2, 0, 1)


_RAMP = ((38, 18, 84), (58, 70, 140), (40, 122, 142), (52, 168, 116), (146, 206, 72), (252, 232, 60))
"""From dark violet over blue and green to yellow: each step lighter than the one before, so that the order is also
seen in grey and by those who see few colours."""
_GREY = 96
GREY = (_GREY, _GREY, _GREY)
"""Of pixels about which nothing is known."""


def color_ramp(shares: Tensor) -> Tensor:
    """uint8 [..., 3]: colours for numbers [...], dark for 0 and below, light for 1 and above."""
    stops = torch.tensor(_RAMP, dtype=torch.float32)
    place = shares.float().cpu().clamp(0, 1) * (len(stops) - 1)
    lower = place.long().clamp(max=len(stops) - 2)
    within = (place - lower)[..., None]
    return (stops[lower] * (1 - within) + stops[lower + 1] * within).round().to(torch.uint8)


def grey_where_unknown(pixels: Tensor, valid: Tensor) -> Tensor:
    """uint8 [3, H, W]: the colours [H, W, 3] where bool [H, W] holds, grey elsewhere."""
    valid = valid.cpu()[..., None]
    return torch.where(valid, pixels.cpu(), torch.full_like(pixels.cpu(), _GREY)).permute(2, 0, 1)
