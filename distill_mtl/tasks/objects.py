"""What lies where in a picture: the label of the `heatmap` kind (`boxes.json`).

A list of objects in pixels of the picture: `{"class": ..., "box": [left, top, width, height]}` as in COCO, or
`{"class": ..., "point": [x, y]}`. Other keys of an object are left alone.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from distill_mtl.geometry.boxes import boxes_seen, points_seen
from distill_mtl.geometry.views import Size, View
from distill_mtl.tasks.options import is_number

COLUMNS = 5
"""Of an object: class (-1: none), x and y of its centre, width, height."""


def empty(most: int) -> Tensor:
    """float32 [most, COLUMNS] of no object."""
    slots = torch.zeros(most, COLUMNS)
    slots[:, 0] = -1
    return slots


def packed(objects: Tensor, most: int) -> Tensor:
    """float32 [most, COLUMNS]: objects [N, COLUMNS], then empty slots."""
    slots = empty(most)
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
        ValueError: it is no such list, or has more objects than slots.
    """
    try:
        entries = json.loads(payload)
    except (ValueError, RecursionError):
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
    return packed(torch.tensor(objects, dtype=torch.float32).view(-1, COLUMNS), most)


def objects_seen(label: Tensor, view: View, picture: Size, size: Size, form: str) -> Tensor:
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
    return packed(torch.cat([number, centre / scale, sides / scale], 1)[shown], len(label))


def corners(objects: Tensor) -> Tensor:
    """[..., 4], left, top, right and bottom of objects [..., COLUMNS]."""
    centre, half = objects[..., 1:3], objects[..., 3:] / 2
    return torch.cat([centre - half, centre + half], -1)


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
        raise ValueError(
            f"object {place} of the label needs `{key}: {form}` in pixels, found {_short(entry)}."
        )
    return tuple(float(value) for value in values)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:60] + " …"
