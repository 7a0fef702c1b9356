"""Masks of classes from what annotations hold: polygons, run lengths, and pictures of segments.

Objects are painted from the largest to the smallest, so that a cup stays on its table. Regions of crowds, which are
drawn roughly, are of no class where nothing else is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill_mtl.extras import extra
from distill_mtl.geometry.views import Size
from distill_mtl.reading import loads
from distill_mtl.shards.annotations import MASK, Members
from distill_mtl.tasks.maps import read_png, write_png

SEGMENTS = "segments"
"""The note beside a picture of segments: pairs of a segment's number and its class."""
CROWD = -1
"""Stands for the class of a crowd."""
_COLOURS = 256

Shape = tuple[int, Any]
"""The class number of an object, and its polygons [[x, y, x, y, …], …] in pixels or its run lengths as in COCO."""


@dataclass(frozen=True)
class DrawShapes:
    """Masks from the note `seg.png`: a list of `Shape` as JSON.

    Attributes:
        fill: the number of pixels of no object.
        ignored: the number of pixels without a class.
        shares: polygons are in shares of the picture's sides.
    """

    fill: int
    ignored: int
    shares: bool = False

    def __call__(self, notes: Members, size: Size) -> dict[str, bytes]:
        shapes = [(number, _pixels_of(shape, size, self.shares)) for number, shape in loads(notes[MASK])]
        mask = np.full(size, self.fill, np.uint16)
        for number, pixels in sorted(shapes, key=lambda one: (one[0] != CROWD, -int(one[1].sum()))):
            mask[pixels] = self.ignored if number == CROWD else number
        return {MASK: _encoded(mask)}


@dataclass(frozen=True)
class DrawSegments:
    """Masks from a PNG whose colours are numbers of segments, red + 256 green + 65536 blue (COCO panoptic).

    Attributes:
        ignored: the number of pixels without a class, which are black.
    """

    ignored: int

    def __call__(self, notes: Members, size: Size) -> dict[str, bytes]:
        mode, pixels = read_png(notes[MASK], "the picture of segments")
        if mode not in ("RGB", "RGBA"):
            raise ValueError(f"the picture of segments is of mode {mode}, and RGB is expected")
        segments = pixels[..., :3].astype(np.int64) @ np.array([1, _COLOURS, _COLOURS**2])
        classes = {0: self.ignored, **dict(loads(notes[SEGMENTS]))}
        numbers, places = np.unique(segments, return_inverse=True)
        if strange := [number for number in numbers.tolist() if number not in classes]:
            raise ValueError(
                f"the picture of segments shows the segment {strange[0]}, which `segments_info` lacks"
            )
        mask = np.array([classes[number] for number in numbers.tolist()], np.uint16)[places]
        return {MASK: _encoded(mask.reshape(segments.shape))}


def _encoded(mask: NDArray[np.uint16]) -> bytes:
    return write_png(mask.astype(np.uint8) if mask.max() < _COLOURS else mask)


def _pixels_of(shape: Any, size: Size, shares: bool) -> NDArray[np.bool_]:
    """bool [H, W]: where an object is."""
    if isinstance(shape, Mapping):
        return run_length_mask(shape, size)
    sides = (size[1], size[0])
    polygons = [
        [value * sides[place % 2] for place, value in enumerate(polygon)] if shares else polygon
        for polygon in shape
    ]
    return polygon_mask(polygons, size)


def polygon_mask(polygons: Sequence[Sequence[float]], size: Size) -> NDArray[np.bool_]:
    """bool [H, W]: what lies in any of the polygons, by pycocotools.

    Args:
        polygons: [x, y, x, y, …] in pixels, of three corners at least.
        size: height and width.

    Raises:
        ValueError: a corner lies further outside than the picture is wide or high.
    """
    height, width = size
    for polygon in polygons:
        corners = np.asarray(polygon).reshape(-1, 2)
        # pycocotools takes memory by the length of the lines, wherever they are.
        if (corners < (-width, -height)).any() or (corners > (2 * width, 2 * height)).any():
            raise ValueError(
                f"a polygon leaves its picture of {width}x{height} pixels by more than the picture's side"
            )
    tools = extra("pycocotools.mask", "coco", "drawing masks of polygons")
    encoded = tools.frPyObjects([list(map(float, polygon)) for polygon in polygons], height, width)
    return tools.decode(tools.merge(encoded)).astype(bool)


def run_length_mask(lengths: Mapping[str, Any], size: Size) -> NDArray[np.bool_]:
    """bool [H, W] of COCO's run lengths: pixels outside and inside in turn, column by column.

    Args:
        lengths: `size` [height, width] and `counts`, numbers or the text that pycocotools packs them in.
        size: height and width of the picture.

    Raises:
        ValueError: they are of another size, or do not add up to it.
    """
    height, width = size
    if list(lengths["size"]) != [height, width]:
        said = "x".join(map(str, reversed(lengths["size"])))
        raise ValueError(f"run lengths are of a mask of {said} pixels, and the picture has {width}x{height}")
    counts = lengths["counts"]
    if isinstance(counts, str):
        counts = unpacked(counts)
    if min(counts, default=0) < 0 or sum(counts) != height * width:
        raise ValueError(f"run lengths do not add up to the {height * width:,} pixels of their picture")
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(width, height).T


def unpacked(text: str) -> list[int]:
    """The numbers in the text of run lengths: five bits in a character, least first, the sixth if more follow; from the
    fourth number on what is written is the difference to the one before the last (pycocotools, `rleFrString`).

    Raises:
        ValueError: it is cut, or no such text.
    """
    counts = list[int]()
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError(f"run lengths hold {letter!r} at an impossible place")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("run lengths are cut")
    return counts
