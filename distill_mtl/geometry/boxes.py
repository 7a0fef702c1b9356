"""Boxes and points of a picture under a view, so that they move together with its pixels.

Coordinates are continuous: pixel i reaches from i to i + 1, so a box of all pixels is [0, 0, width, height].
torchvision moves boxes in these coordinates. It mirrors `KeyPoints` as numbers of pixels (x -> width - 1 - x) but
scales them as lengths, which is wrong by up to a pixel of the view. Points are therefore moved as boxes without
size.
"""

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from distill_mtl.geometry.views import Size, View

LEAST_SEEN = 0.25
"""Share of a box's area that must be visible if its centre is not."""


def boxes_seen(boxes: Tensor, view: View, picture: Size, size: Size) -> tuple[Tensor, Tensor]:
    """Boxes as they are under a view of their picture, cut off at its borders.

    Args:
        boxes: float [N, 4], left, top, right and bottom in pixels of the picture; what lies beyond it is cut off.
        view: box and flip.
        picture: height and width of the whole picture.
        size: height and width of the view.

    Returns:
        float [N, 4] in pixels of the view, and bool [N]: which are seen. A box is while its centre or
        `LEAST_SEEN` of its area is inside.
    """
    inside = _clipped(boxes, picture)
    moved = _moved(inside, view, picture, size)
    seen = _clipped(moved, size)
    centre = (moved[:, :2] + moved[:, 2:]) / 2
    share = _area(seen) / _area(moved).clamp_min(torch.finfo(moved.dtype).tiny)
    return seen, (_area(seen) > 0) & (_within(centre, size) | (share >= LEAST_SEEN))


def points_seen(points: Tensor, view: View, picture: Size, size: Size) -> tuple[Tensor, Tensor]:
    """Points as they are under a view of their picture.

    Args:
        points: float [N, 2], x and y in pixels of the picture.
        view, picture, size: as for boxes.

    Returns:
        float [N, 2] in pixels of the view, and bool [N]: which lie in both picture and view.
    """
    moved = _moved(points.repeat(1, 2), view, picture, size)[:, :2]
    return moved, _within(points, picture) & _within(moved, size)


def _moved(boxes: Tensor, view: View, picture: Size, size: Size) -> Tensor:
    """[N, 4] under the view, not cut off."""
    known = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=picture, clamping_mode=None)
    seen = functional.resized_crop(known, view.top, view.left, view.height, view.width, list(size))
    return (functional.horizontal_flip(seen) if view.flip else seen).as_subclass(Tensor)


def _clipped(boxes: Tensor, size: Size) -> Tensor:
    height, width = size
    return boxes.clamp(boxes.new_zeros(4), boxes.new_tensor([width, height, width, height]))


def _area(boxes: Tensor) -> Tensor:
    """[N]"""
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)


def _within(points: Tensor, size: Size) -> Tensor:
    """bool [N]: which points [N, 2] lie in a picture of `size`, its border included."""
    height, width = size
    return ((points >= 0) & (points <= points.new_tensor([width, height]))).all(1)
