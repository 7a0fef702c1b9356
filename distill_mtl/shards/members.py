"""The labels that shards may hold: what each member must look like, and what is counted of it.

Every label is read before it is written, so that a mistake is found now and not in the middle of training.
"""

import io
import json
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from distill_mtl.shards.facts import Facts, Moments
from distill_mtl.shards.listed_rows import LabelError
from distill_mtl.tasks.segmentation import mask_pixels

Size = tuple[int, int]

KINDS = {
    "cls": "classification",
    "attributes.json": "multilabel",
    "values.json": "regression",
    "seg.png": "segmentation",
    "depth.png": "depth",
    "depth.npy": "depth",
    "normals.png": "normals",
    "normals.npy": "normals",
    "boxes.json": "heatmap",
}
"""Member -> the kind of task that it is a label of."""

UNKNOWN = "unknown"
LABELLED, UNLABELLED = "labelled", "unlabelled"
BEYOND = "beyond the picture"


def look(member: str, content: bytes, picture: Size, facts: Facts) -> None:
    """Read a label and count what it says.

    Args:
        member: one of `KINDS`; of others (`group`) nothing is asked.
        content: of the member.
        picture: height and width of the row's picture, which dense labels must have too.
        facts: takes the counts.

    Raises:
        LabelError: the label makes no sense.
    """
    if member in _LOOKS:
        _LOOKS[member](member, content, picture, facts)


def _class(member: str, content: bytes, picture: Size, facts: Facts) -> None:
    facts.count(member, "rows", {content.decode(): 1})


def _attributes(member: str, content: bytes, picture: Size, facts: Facts) -> None:
    for name, value in _by_name(json.loads(content)):
        facts.count(member, name, {UNKNOWN if value is None else str(value): 1})


def _values(member: str, content: bytes, picture: Size, facts: Facts) -> None:
    for name, value in _by_name(json.loads(content)):
        facts.count(member, name, {UNKNOWN: int(value is None)})
        facts.measure(member, name, Moments.of(np.array([] if value is None else [value], np.float64)))


def _by_name(value: Any) -> list[tuple[str, Any]]:
    """The values of a label with their names; values without names are called by their place."""
    if isinstance(value, dict):
        return list(value.items())
    return [(str(place), one) for place, one in enumerate(value if isinstance(value, list) else [value])]


def _boxes(member: str, content: bytes, picture: Size, facts: Facts) -> None:
    things = json.loads(content)
    facts.count(member, "things", Counter(str(thing["class"]) for thing in things))
    facts.count(member, "rows", {"with things" if things else "without things": 1})
    boxes = [thing["box"] for thing in things if "box" in thing]
    facts.count(member, "boxes", {"all": len(boxes), BEYOND: sum(_beyond(box, picture) for box in boxes)})


def _beyond(box: list[float], picture: Size) -> bool:
    """Whether a box leaves its picture by more than the pixel that rounding may cost."""
    left, top, width, height = box
    return min(left, top) < -1 or left + width > picture[1] + 1 or top + height > picture[0] + 1


def _mask(member: str, content: bytes, picture: Size, facts: Facts) -> None:
    try:
        pixels = mask_pixels(content)
    except ValueError as error:
        raise LabelError(str(error)) from None
    _refuse_other_size(pixels, picture)
    ids, counts = np.unique(pixels, return_counts=True)
    facts.count(member, "pixels", {str(one): int(count) for one, count in zip(ids, counts, strict=True)})
    facts.count(member, "rows", {str(one): 1 for one in ids})


def _depth(member: str, content: bytes, picture: Size, facts: Facts) -> None:
    if member.endswith("png"):
        values = _png(content, ("I;16", "I;16B", "I"), "a 16-bit grey PNG")
    else:
        values = _npy(content, 2, "[H, W]")
    _refuse_other_size(values, picture)
    with np.errstate(invalid="ignore"):
        valid = np.isfinite(values) & (values > 0)
    facts.measure(member, "depth", Moments.of(values[valid].astype(np.float64)))
    facts.count(member, "pixels", {LABELLED: int(valid.sum()), UNLABELLED: int((~valid).sum())})


def _normals(member: str, content: bytes, picture: Size, facts: Facts) -> None:
    is_png = member.endswith("png")
    vectors = _png(content, ("RGB",), "an 8-bit RGB PNG") if is_png else _npy(content, 3, "[H, W, 3]")
    _refuse_other_size(vectors, picture)
    valid = (vectors != 0).any(axis=-1)
    facts.count(member, "pixels", {LABELLED: int(valid.sum()), UNLABELLED: int((~valid).sum())})


_LOOKS: dict[str, Callable[[str, bytes, Size, Facts], None]] = {
    "cls": _class,
    "attributes.json": _attributes,
    "values.json": _values,
    "seg.png": _mask,
    "depth.png": _depth,
    "depth.npy": _depth,
    "normals.png": _normals,
    "normals.npy": _normals,
    "boxes.json": _boxes,
}


_MODES = {
    "1": "a black and white picture",
    "L": "an 8-bit grey picture",
    "P": "a picture with a palette",
    "RGB": "an 8-bit RGB picture",
    "RGBA": "an RGB picture with transparency",
    "I;16": "a 16-bit grey picture",
}


def _png(content: bytes, modes: tuple[str, ...], wanted: str) -> NDArray[Any]:
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            mode, pixels = picture.mode, np.asarray(picture)
    except UnidentifiedImageError:
        raise LabelError(f"the label is no PNG picture. It must be {wanted}.") from None
    except (OSError, SyntaxError) as error:
        raise LabelError(f"the label cannot be decoded ({error})") from None
    if mode not in modes:
        raise LabelError(
            f"the label is {_MODES.get(mode, f'a picture of mode {mode}')}. It must be {wanted}."
        )
    return pixels


def _npy(content: bytes, dimensions: int, wanted: str) -> NDArray[Any]:
    try:
        values = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError):
        raise LabelError("the label is no .npy file of numbers.") from None
    fits = isinstance(values, np.ndarray) and np.issubdtype(values.dtype, np.floating)
    if not fits or values.ndim != dimensions or (dimensions == 3 and values.shape[2] != 3):
        found = f"{values.dtype} {list(values.shape)}" if isinstance(values, np.ndarray) else "several arrays"
        raise LabelError(f"the label holds {found}. It must be floats {wanted}.")
    array: NDArray[Any] = values
    return array


def _refuse_other_size(label: NDArray[Any], picture: Size) -> None:
    if label.shape[:2] != picture:
        raise LabelError(
            f"the label has {label.shape[1]}x{label.shape[0]} pixels, its picture {picture[1]}x{picture[0]}. They "
            "must be alike."
        )


def check_things(things: Any) -> list[dict[str, Any]]:
    """Boxes and points as `boxes.json` holds them.

    Args:
        things: a list of {"class": name or number, "box": [left, top, width, height]} or with "point": [x, y], in
            pixels of the picture.

    Raises:
        LabelError: something else.
    """
    wanted = 'It must be a list of {"class": name or number, "box": [left, top, width, height]} or "point": [x, y].'
    if not isinstance(things, list):
        raise LabelError(f"found {str(things)[:60]}. {wanted}")
    for thing in things:
        place = thing.get("box", thing.get("point")) if isinstance(thing, dict) else None
        length = 4 if isinstance(thing, dict) and "box" in thing else 2
        named = isinstance(thing, dict) and isinstance(thing.get("class"), str | int)
        if (
            not named
            or not isinstance(place, list)
            or len(place) != length
            or not all(map(_is_number, place))
        ):
            raise LabelError(f"found {str(thing)[:60]}. {wanted}")
        if length == 4 and min(place[2:]) <= 0:
            raise LabelError(f"the box {place} has no area: [left, top, width, height] is expected.")
    return things


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
