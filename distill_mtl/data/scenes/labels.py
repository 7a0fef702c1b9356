"""The labels of a scene on its picture's pixels, from the surfaces behind their centres."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distill_mtl.data.scenes.scene import Scene
from distill_mtl.data.scenes.shapes import SHAPES
from distill_mtl.data.scenes.trace import NOTHING, SOLIDS, Surfaces
from distill_mtl.data.scenes.vectors import dot

CLASSES = ("background", *SHAPES)
MILLIMETRES = 1000
LEAST_PIXELS = 30  # of a solid that still counts as seen


@dataclass(frozen=True)
class Sight:
    """A solid of which enough is seen.

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

    (0, 0, 0), which is no direction, where there is nothing.
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


def sights(scene: Scene, surfaces: Surfaces) -> list[Sight]:
    """The solids that are seen, pebbles left out, in the order of the scene."""
    found = []
    for number, solid in enumerate(scene.solids):
        rows, columns = np.nonzero(surfaces.what == SOLIDS + number)
        if solid.clutter or len(rows) < LEAST_PIXELS:
            continue
        left, top = int(columns.min()), int(rows.min())
        box = (left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top)
        found.append(Sight(number, box, len(rows)))
    return found
