"""Boxes and points drawn on a picture, for people."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from distill_mtl.tasks.base import Legend, Shown
from distill_mtl.tasks.maps import map_size
from distill_mtl.tasks.objects import corners
from distill_mtl.tasks.palette import named_colors


def drawn(objects: Tensor, image: Tensor, classes: Sequence[str]) -> Shown:
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
