"""Objects in a picture: the label of the `heatmap` kind (`boxes.json`), and how found objects compare with it.

A label is a list of objects in pixels of the picture: `{"class": ..., "box": [left, top, width, height]}` as in COCO,
or `{"class": ..., "point": [x, y]}`. Other keys of an object are ignored. Boxes are compared by their overlap, points
by their distance (`pck`).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_mtl.geometry.boxes import boxes_seen, points_seen
from distill_mtl.geometry.views import Size, View
from distill_mtl.reading import loads
from distill_mtl.tasks.options import is_number

COLUMNS = 5
"""Of an object: class (-1: none), x and y of its centre, width, height."""


def no_objects(most: int) -> Tensor:
    """float32 [most, COLUMNS] of no object."""
    slots = torch.zeros(most, COLUMNS)
    slots[:, 0] = -1
    return slots


def pad_objects(objects: Tensor, most: int) -> Tensor:
    """float32 [most, COLUMNS]: objects [N, COLUMNS], then empty slots."""
    slots = no_objects(most)
    slots[: len(objects)] = objects
    return slots


def read_objects(payload: bytes, classes: Mapping[str, int], form: str, most: int) -> Tensor:
    """float32 [most, COLUMNS] in pixels of the picture.

    Args:
        payload: of the member.
        classes: name -> number.
        form: `boxes` or `points`.
        most: slots.

    Raises:
        ValueError: it is not such a list, or has more objects than slots.
    """
    try:
        entries = loads(payload)
    except ValueError:
        raise ValueError(f"the label is not JSON: {payload[:16]!r}. A list of objects is expected.") from None
    if not isinstance(entries, list):
        raise ValueError(f"the label is not a list of objects, it begins with {payload[:16]!r}.")
    if len(entries) > most:
        raise ValueError(
            f"the label has {len(entries)} objects, and max_objects is {most}. Raise `options.max_objects`."
        )
    read = _box if form == "boxes" else _point
    objects = [
        (_class(entry, classes, place), *read(entry, place)) for place, entry in enumerate(entries, start=1)
    ]
    return pad_objects(torch.tensor(objects, dtype=torch.float32).view(-1, COLUMNS), most)


def transform_objects(label: Tensor, view: View, picture: Size, size: Size, form: str) -> Tensor:
    """A label in pixels of the picture as it is under a view: coordinates are shares of the view's sides.

    Objects that the view does not show are gone.
    """
    present = label[label[:, 0] >= 0]
    number, centre, half = present[:, :1], present[:, 1:3], present[:, 3:] / 2
    height, width = size
    if form == "points":
        centre, shown = points_seen(centre, view, picture, size)
        sides = torch.zeros_like(centre)
    else:
        corners, shown = boxes_seen(torch.cat([centre - half, centre + half], 1), view, picture, size)
        centre, sides = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    scale = centre.new_tensor([width, height])
    return pad_objects(torch.cat([number, centre / scale, sides / scale], 1)[shown], len(label))


def corners(objects: Tensor) -> Tensor:
    """[..., 4], left, top, right and bottom of objects [..., COLUMNS]."""
    centre, half = objects[..., 1:3], objects[..., 3:] / 2
    return torch.cat([centre - half, centre + half], -1)


MATCH_IOU = 0.5
"""Intersection over union from which a box counts as found (PASCAL VOC; COCO's AP50)."""


def match_objects(found: Tensor, labels: Tensor) -> Tensor:
    """bool [R, K]: which found objects are labelled ones; each label can be found once.

    In the order of the found ones, strongest first, each takes the free label of its class that it overlaps most
    (COCO's evaluation, Lin et al. 2014, arXiv:1405.0312; `COCOeval.evaluateImg`).

    Args:
        found: [R, K, 5], objects as shares of the view.
        labels: [R, M, 5], the same.
    """
    overlap = pairwise_iou(found, labels)
    free = torch.ones_like(labels[..., 0], dtype=torch.bool)
    right = []
    for candidate in overlap.unbind(1):
        best, claimed = candidate.masked_fill(~free, -1).max(1)
        right.append(best >= MATCH_IOU)
        taken = torch.zeros_like(free).scatter_(1, claimed[:, None], True) & right[-1][:, None]
        free = free & ~taken
    return torch.stack(right, 1)


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """[R, K, M]: intersection over union of boxes of one class; 0 for other classes and empty slots."""
    one, other = corners(first)[:, :, None], corners(second)[:, None]
    common = torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])
    intersection = common.clamp_min(0).prod(-1)
    union = first[:, :, None, 3:].prod(-1) + second[:, None, :, 3:].prod(-1) - intersection
    return torch.where(same_class(first, second) & (union > 0), intersection / union, 0.0)


def same_class(first: Tensor, second: Tensor) -> Tensor:
    """bool [R, K, M]: both are there, and of one class."""
    mine, theirs = first[:, :, None, 0], second[:, None, :, 0]
    return (mine == theirs) & (mine >= 0)


NEAR = 0.1
"""Share of the view's larger side within which a point counts as found."""
_GRID = 20  # cells of the histogram along a side
_REACH = int(NEAR * _GRID)


def centre_distances(first: Tensor, second: Tensor, size: Size) -> Tensor:
    """[R, K, M]: between the centres of objects, in cells of a map of `size`."""
    scale = first.new_tensor([size[1], size[0]])
    return torch.cdist(first[..., 1:3] * scale, second[..., 1:3] * scale)


def points_found(best: Tensor, labels: Tensor, size: Size) -> Tensor:
    """float64 [R, 2]: labelled centres that the best of their class is near to, and all of them.

    Args:
        best: float64 [R, C, 5], one object of each class, in their order.
        labels: float64 [R, M, 5].
        size: of the map, which has the aspect of the view.
    """
    there = labels[..., 0] >= 0
    number = labels[..., :1].long().clamp_min(0)
    centre = best[..., 1:3].gather(1, number.expand(-1, -1, 2))
    scale = best.new_tensor([size[1], size[0]])
    apart = ((centre - labels[..., 1:3]) * scale).norm(dim=2)
    return torch.stack([(there & (apart <= NEAR * max(size))).sum(1), there.sum(1)], 1).double()


def centre_histogram(labels: Tensor, classes: int) -> Tensor:
    """float64 [C, grid²]: how many of the labels [R, M, 5] have their centre where."""
    known = labels[labels[..., 0] >= 0]
    column, line = (known[:, 1:3] * _GRID).long().clamp(0, _GRID - 1).unbind(1)
    place = (known[:, 0].long() * _GRID + line) * _GRID + column
    return torch.bincount(place, minlength=classes * _GRID**2).view(classes, -1).double()


def best_constant_pck(counts: Tensor) -> float:
    """About the score of the best fixed place of each class, in points of 100, from a `centre_histogram`.

    Centres are taken to lie in the middle of their cell, and views to be square.
    """
    line, column = torch.meshgrid(*[torch.arange(-_REACH, _REACH + 1)] * 2, indexing="ij")
    disk = (line**2 + column**2 <= _REACH**2).double()
    reached = F.conv2d(counts.view(-1, 1, _GRID, _GRID), disk[None, None], padding=_REACH)
    return 100 * float(reached.flatten(1).amax(1).sum() / counts.sum().clamp(min=1))


def _class(entry: Any, classes: Mapping[str, int], place: int) -> int:
    if not isinstance(entry, dict) or "class" not in entry:
        raise ValueError(f"object {place} of the label has no `class`: {_short(entry)}.")
    named = entry["class"]
    if isinstance(named, str) and named in classes:
        return classes[named]
    if isinstance(named, int) and not isinstance(named, bool) and 0 <= named < len(classes):
        return named
    some = ", ".join(list(classes)[:5]) + (", …" if len(classes) > 5 else "")
    raise ValueError(
        f"object {place} of the label is of class {_short(named)}, which is neither a class number from 0 to "
        f"{len(classes) - 1} nor one of the class names ({some})."
    )


def _box(entry: Mapping[str, Any], place: int) -> tuple[float, ...]:
    """Centre x, y, width and height."""
    numbers = _numbers(entry, "box", 4, "[left, top, width, height]", place)
    left, top, width, height = numbers
    if width <= 0 or height <= 0:
        raise ValueError(f"object {place} of the label has a box without area, {_short(list(numbers))}.")
    if max(numbers) <= 1 and max(width, height) < 1:
        raise ValueError(
            f"object {place} of the label has the box {_short(list(numbers))}, smaller than a pixel. Boxes are in "
            "pixels, not in shares of the picture."
        )
    return (left + width / 2, top + height / 2, width, height)


def _point(entry: Mapping[str, Any], place: int) -> tuple[float, ...]:
    return (*_numbers(entry, "point", 2, "[x, y]", place), 0.0, 0.0)


def _numbers(entry: Mapping[str, Any], key: str, count: int, form: str, place: int) -> Sequence[float]:
    values = entry.get(key)
    if not isinstance(values, list) or len(values) != count or not all(map(is_number, values)):
        other, other_form = ("point", "points") if key == "box" else ("box", "boxes")
        remedy = f" Objects with `{other}` need the option `form: {other_form}`."
        raise ValueError(
            f"object {place} of the label needs `{key}: {form}` in pixels, found {_short(entry)}."
            + remedy * (other in entry)
        )
    return tuple(float(value) for value in values)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:60] + " …"
