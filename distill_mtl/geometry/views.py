"""The geometry of one row: which box of the picture is seen, mirrored or not, in the canonical size.

A view is a box and a flip. It is applied to the picture and to dense labels, so both stay aligned, student and
teachers see the same, and a view can be stored and replayed.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Size = tuple[int, int]
Resize = Literal["crop", "pad", "squash"]
DRAWS = 5  # random numbers that one training view uses


class View(NamedTuple):
    """A box in pixels of the picture, which may reach beyond it, and whether it is mirrored left to right.

    Attributes:
        top, left: of the box; negative above and left of the picture.
        height, width: of the box, at least 1.
        flip: mirrored after the box was cut out.
    """

    top: int
    left: int
    height: int
    width: int
    flip: bool = False

    def image(self, picture: Tensor, size: Size) -> Tensor:
        """The view of a uint8 picture [3, h, w] as [3, H, W]: antialiased bilinear, black outside."""
        if picture.shape[1:] == size and self == (0, 0, *size, False):
            return picture
        top, left, bottom, right = self.inside(_size(picture))
        part = picture[:, top:bottom, left:right]
        if part.shape[1:] == (self.height, self.width):
            seen = _resize(part, size)
        else:
            rows = _scaled(top - self.top, bottom - self.top, size[0], self.height)
            columns = _scaled(left - self.left, right - self.left, size[1], self.width)
            seen = _resize(part, (rows[1] - rows[0], columns[1] - columns[0]))
            seen = F.pad(seen, (columns[0], size[1] - columns[1], rows[0], size[0] - rows[1]))
        return seen.flip(2) if self.flip else seen

    def map(self, label: Tensor, size: Size, fill: int) -> Tensor:
        """The view of a dense label [..., h, w] as [..., H, W]: nearest pixels, `fill` beyond the border."""
        height, width = _size(label)
        rows = _nearest(self.top, self.height, size[0])
        columns = _nearest(self.left, self.width, size[1])
        if self.flip:
            columns = columns[::-1]
        pixels = label.numpy()[..., rows.clip(0, height - 1)[:, None], columns.clip(0, width - 1)]
        top, left, bottom, right = self.inside((height, width))
        if (bottom - top, right - left) != (self.height, self.width):
            outside_rows, outside_columns = (rows < 0) | (rows >= height), (columns < 0) | (columns >= width)
            pixels[..., outside_rows[:, None] | outside_columns] = fill
        return torch.from_numpy(pixels)

    def inside(self, picture: Size) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) of the part of the box that lies in the picture."""
        bottom, right = self.top + self.height, self.left + self.width
        return max(self.top, 0), max(self.left, 0), min(bottom, picture[0]), min(right, picture[1])


@lru_cache(maxsize=1024)
def plain_view(picture: Size, size: Size, resize: Resize) -> View:
    """The view of evaluation: the largest centred box (crop), the letterbox (pad) or everything (squash).

    Args:
        picture: height and width in pixels.
        size: height and width of the view.
        resize: of the source.
    """
    height, width = _box(_canvas(picture, size, resize), _aspect(picture, size, resize), 1.0)
    return View((picture[0] - height) // 2, (picture[1] - width) // 2, height, width)


def training_view(
    picture: Size,
    size: Size,
    resize: Resize,
    crop: tuple[float, float] | float | None,
    flip: bool,
    chance: Sequence[float],
) -> View:
    """A random view: a box of random area, aspect (3/4 to 4/3 of the plain one) and place, mirrored or not.

    A box that does not fit is shrunk until it does, so its area may fall below the range. Of small pictures the plain
    box is moved instead, beyond the border too: a crop of the picture with a black frame (He et al. 2016, section 4.2).

    Args:
        picture: height and width in pixels.
        size: height and width of the view.
        resize: of the source; `pad` crops from the letterboxed picture.
        crop: smallest and largest area as a share of the picture; a number, how far the plain view's box moves at
            most, as a share of its sides; None for that box where it is.
        flip: mirror half of the views.
        chance: DRAWS numbers in [0, 1).
    """
    mirrored = flip and chance[0] < 0.5
    if not isinstance(crop, tuple):
        top, left, height, width, _ = plain_view(picture, size, resize)
        top += _moved(height, crop or 0.0, chance[3])
        left += _moved(width, crop or 0.0, chance[4])
        return View(top, left, height, width, mirrored)
    # From 3/4 to 4/3, with 1 in the middle and as often above as below; no function of libm, whose last
    # bit differs between machines.
    jitter = (3 + chance[1]) / (4 - chance[1])
    share = crop[0] + chance[2] * (crop[1] - crop[0])
    height, width = _box(_canvas(picture, size, resize), jitter * _aspect(picture, size, resize), share)
    top, left = _place(picture[0], height, chance[3]), _place(picture[1], width, chance[4])
    return View(top, left, height, width, mirrored)


def _place(picture: int, box: int, chance: float) -> int:
    """Where a box begins along one side: anywhere in the picture, or anywhere around it if it is longer."""
    slack = picture - box
    return min(slack, 0) + int(chance * (abs(slack) + 1))


def _moved(box: int, share: float, chance: float) -> int:
    """How far a box moves along one side: at most this share of it, every distance as likely."""
    most = round(share * box)
    return int(chance * (2 * most + 1)) - most


def _canvas(picture: Size, size: Size, resize: Resize) -> Size:
    """Height and width of what boxes are cut from: the picture, or its letterbox in the view's aspect."""
    height, width = picture
    if resize != "pad":
        return picture
    return max(height, round(width * size[0] / size[1])), max(width, round(height * size[1] / size[0]))


def _aspect(picture: Size, size: Size, resize: Resize) -> float:
    """Width by height of an undistorted box."""
    height, width = picture if resize == "squash" else size
    return width / height


def _box(canvas: Size, aspect: float, share: float) -> Size:
    """Height and width of a box with a share of the canvas's area, shrunk to fit into it."""
    area = max(1.0, share * canvas[0] * canvas[1])
    height, width = math.sqrt(area / aspect), math.sqrt(area * aspect)
    fit = min(1.0, canvas[0] / height, canvas[1] / width)
    return (
        min(canvas[0], max(1, round(height * fit))),
        min(canvas[1], max(1, round(width * fit))),
    )


def _scaled(start: int, stop: int, size: int, length: int) -> tuple[int, int]:
    """A stretch of a box's side in pixels of the view, at least one of them."""
    first = min(round(start * size / length), size - 1)
    return first, max(first + 1, round(stop * size / length))


def _resize(part: Tensor, size: Size) -> Tensor:
    if _size(part) == size:
        return part
    if (
        size[1] == 1
    ):  # a sliver of a letterbox; there PyTorch's uint8 kernel gives wrong pixels (seen in 2.15)
        resized = F.interpolate(part[None].float(), size, mode="bilinear", antialias=True)
        return resized[0].round().to(torch.uint8)
    # PyTorch works in channels-last memory here, and from a slice of one it would convert to and fro.
    pixels = part[None].contiguous(memory_format=torch.channels_last)
    return F.interpolate(pixels, size, mode="bilinear", antialias=True)[0]


def _nearest(start: int, length: int, size: int) -> NDArray[np.int64]:
    """int64 [size]: the pixel of the picture under the centre of each pixel of the view."""
    return np.arange(1, 2 * size, 2) * length // (2 * size) + start


def _size(picture: Tensor) -> Size:
    return picture.shape[-2], picture.shape[-1]
