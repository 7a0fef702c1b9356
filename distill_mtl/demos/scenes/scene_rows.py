"""The rows of the built-in shards `scenes:SET-SPLIT`: one scene each, with one kind of label.

Sets: `depth` (depth.png), `normals` (normals.png), `segment` (seg.png), `attributes` (attributes.json) and
`objects` (boxes.json). Every row of every set has a scene of its own, so no picture has two labels. Labels come from
the surfaces behind the centres of the pixels.
"""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill_mtl.cores import usable_cores
from distill_mtl.demos.scenes.compose import compose
from distill_mtl.demos.scenes.render import NOTHING, SIDE, SOLIDS, Surfaces, picture, trace
from distill_mtl.demos.scenes.scene import SHAPES, Scene, Solid, dot
from distill_mtl.splits import Split

VERSION = 1
ROWS: dict[Split, int] = {"train": 2400, "validation": 300, "test": 500}

_CHUNK = 100  # scenes on their way at a time, so that little is left to do when the command is stopped
CLASSES = ("background", *SHAPES)
MILLIMETRES = 1000
LEAST_PIXELS = 30  # of a solid that still counts as seen


def scene(name: str, split: Split, row: int) -> Scene:
    """The scene of a row."""
    return compose(name, split, row, VERSION)


def samples(name: str, split: Split) -> Iterator[dict[str, str | bytes]]:
    """The rows of one split of one set in order; several are rendered at a time."""
    threads = usable_cores()
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, ROWS[split], _CHUNK):
            rows = range(first, min(first + _CHUNK, ROWS[split]))
            yield from pool.map(lambda row: _sample(name, split, row), rows)


def _sample(name: str, split: Split, row: int) -> dict[str, str | bytes]:
    member, label = LABELS[name]
    seen = scene(name, split, row)
    return {
        "__key__": f"{name}-{split}-{row:05d}",
        "png": _png(picture(seen)),
        member: label(seen, trace(seen, SIDE)),
    }


@dataclass(frozen=True)
class VisibleSolid:
    """A solid with enough visible pixels.

    Attributes:
        number: of the solid in its scene.
        box: left, top, width and height of its visible pixels.
        pixels: how many they are.
    """

    number: int
    box: tuple[int, int, int, int]
    pixels: int


def depth_pixels(surfaces: Surfaces) -> NDArray[np.uint16]:
    """uint16 [H, W]: millimetres along the line of sight; 0 where there is nothing."""
    nothing = surfaces.what == NOTHING
    rounded = np.floor(np.where(nothing, 0.0, surfaces.depth) * MILLIMETRES + 0.5)
    return rounded.astype(np.uint16)


def normal_pixels(scene: Scene, surfaces: Surfaces) -> NDArray[np.uint8]:
    """uint8 [H, W, 3]: x to the right of the picture, y up, z towards the camera; n = 2 p / 255 - 1.

    (0, 0, 0) where there is nothing.
    """
    camera = scene.camera
    axes = (camera.right.over(2), camera.up.over(2), -camera.forward.over(2))
    seen = np.stack([dot(surfaces.normals, axis) for axis in axes], axis=-1)
    pixels = np.floor((seen + 1) * 127.5 + 0.5).astype(np.uint8)
    pixels[surfaces.what == NOTHING] = 0
    return pixels


def class_pixels(scene: Scene, surfaces: Surfaces) -> NDArray[np.uint8]:
    """uint8 [H, W]: positions in CLASSES. Sky, floor, wall and pebbles are background."""
    numbers = [0 if solid.clutter else CLASSES.index(solid.shape) for solid in scene.solids]
    # NOTHING is -1 and reads the last entry: background too.
    table = np.array([0] * SOLIDS + numbers + [0], np.uint8)
    return table[surfaces.what]


def visible_solids(scene: Scene, surfaces: Surfaces) -> list[VisibleSolid]:
    """The solids that are seen, pebbles left out, in the order of the scene."""
    found = []
    for number, solid in enumerate(scene.solids):
        rows, columns = np.nonzero(surfaces.what == SOLIDS + number)
        if solid.clutter or len(rows) < LEAST_PIXELS:
            continue
        left, top = int(columns.min()), int(rows.min())
        box = (left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top)
        found.append(VisibleSolid(number, box, len(rows)))
    return found


_STEEP = 0.48  # downward part of the line of sight, of 1
_PEBBLE_PIXELS = 8
_HIDDEN = 0.85  # of the pixels it would fill alone; a solid that shows less of them is partly hidden


def attributes(scene: Scene, surfaces: Surfaces) -> list[int]:
    """0 or 1 for each of ATTRIBUTES."""
    seen = visible_solids(scene, surfaces)
    solids = [scene.solids[solid.number] for solid in seen]
    return [int(question(scene, surfaces, seen, solids)) for question in _QUESTIONS.values()]


_Question = Callable[[Scene, Surfaces, Sequence[VisibleSolid], Sequence[Solid]], bool]


def _pebbles(scene: Scene, surfaces: Surfaces) -> bool:
    stones = [SOLIDS + number for number, solid in enumerate(scene.solids) if solid.clutter]
    return int(np.isin(surfaces.what, stones).sum()) >= _PEBBLE_PIXELS


_QUESTIONS: dict[str, _Question] = {
    "sphere": lambda scene, surfaces, seen, solids: any(solid.shape == "sphere" for solid in solids),
    "box": lambda scene, surfaces, seen, solids: any(solid.shape == "box" for solid in solids),
    "cylinder": lambda scene, surfaces, seen, solids: any(solid.shape == "cylinder" for solid in solids),
    "cone": lambda scene, surfaces, seen, solids: any(solid.shape == "cone" for solid in solids),
    "three_or_more": lambda scene, surfaces, seen, solids: len(solids) >= 3,
    "red": lambda scene, surfaces, seen, solids: any(solid.colour == "red" for solid in solids),
    "striped": lambda scene, surfaces, seen, solids: any(
        solid.material.pattern == "stripes" for solid in solids
    ),
    "shiny": lambda scene, surfaces, seen, solids: any(solid.material.shine > 0 for solid in solids),
    "partly_hidden": lambda scene, surfaces, seen, solids: any(
        solid.pixels < _HIDDEN * surfaces.alone[solid.number] for solid in seen
    ),
    "pebbles": lambda scene, surfaces, seen, solids: _pebbles(scene, surfaces),
    "checkered_floor": lambda scene, surfaces, seen, solids: scene.floor.material.pattern == "checker",
    "wall": lambda scene, surfaces, seen, solids: scene.wall is not None,
    "light_from_left": lambda scene, surfaces, seen, solids: scene.light.place.dot(scene.camera.right) < 0,
    "dark_shadows": lambda scene, surfaces, seen, solids: scene.hard,
    "from_above": lambda scene, surfaces, seen, solids: -scene.camera.forward.z > _STEEP,
}
ATTRIBUTES = tuple(_QUESTIONS)


def _boxes(seen: Scene, surfaces: Surfaces) -> bytes:
    boxes = [
        {"class": seen.solids[solid.number].shape, "box": list(solid.box)}
        for solid in visible_solids(seen, surfaces)
    ]
    return json.dumps(boxes).encode()


def _png(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG", compress_level=1)
    return encoded.getvalue()


LABELS: dict[str, tuple[str, Callable[[Scene, Surfaces], bytes]]] = {
    "depth": ("depth.png", lambda seen, surfaces: _png(depth_pixels(surfaces))),
    "normals": ("normals.png", lambda seen, surfaces: _png(normal_pixels(seen, surfaces))),
    "segment": ("seg.png", lambda seen, surfaces: _png(class_pixels(seen, surfaces))),
    "attributes": (
        "attributes.json",
        lambda seen, surfaces: json.dumps(attributes(seen, surfaces)).encode(),
    ),
    "objects": ("boxes.json", _boxes),
}
SETS = tuple(LABELS)
