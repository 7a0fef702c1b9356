"""What the camera sees through each pixel: the nearest surface, how far it is and how it lies."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distill_mtl.data.scenes.scene import FAR, Scene
from distill_mtl.data.scenes.vectors import Floats, at, dot, unit

NOTHING, FLOOR, WALL, SOLIDS = -1, 0, 1, 2


@dataclass(frozen=True)
class Surfaces:
    """The nearest surfaces on a grid of rays.

    Attributes:
        what: int8 [side, side]: NOTHING, FLOOR, WALL, and SOLIDS + i for the scene's solid i.
        depth: [side, side], metres along the line of sight; infinite where there is nothing.
        normals: [3, side, side], unit vectors in the world; zero where there is nothing.
        alone: for each solid how many pixels it would fill with nothing before it.
    """

    what: NDArray[np.int8]
    depth: Floats
    normals: Floats
    alone: tuple[int, ...]


def trace(scene: Scene, side: int) -> Surfaces:
    """What `side` x `side` rays through the centres of pixels meet first.

    A solid is tried only on the pixels of the ball around it.
    """
    camera = scene.camera
    rays = camera.rays(side)
    what, depth = np.full((side, side), NOTHING, np.int8), np.full((side, side), FAR)
    for number, plane in enumerate(scene.planes):
        times = plane.enter(camera.eye, rays)
        np.copyto(what, number, where=times < depth)
        np.minimum(depth, times, out=depth)
    faces = np.array([plane.normal for plane in scene.planes] + [(0.0, 0.0, 0.0)]).T
    normals = np.take(faces, what, axis=1, mode="wrap")  # NOTHING, -1, is the last of them
    alone = []
    with np.errstate(divide="ignore", invalid="ignore"):
        for number, solid in enumerate(scene.solids):
            window = camera.window(solid.centre, solid.radius, side)
            if window is None:
                alone.append(0)
                continue
            seen = (slice(None), *window)
            times, facing = solid.enter(camera.eye.over(2), rays[seen])
            nearer = times < depth[window]
            np.copyto(what[window], SOLIDS + number, where=nearer)
            np.copyto(depth[window], times, where=nearer)
            np.copyto(normals[seen], unit(facing), where=nearer)
            alone.append(int(np.count_nonzero(np.isfinite(times))))
    depth[what == NOTHING] = np.inf
    return Surfaces(what, depth, normals, tuple(alone))


def lit(scene: Scene, places: Floats, to_light: Floats, what: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Where nothing stands between a surface and the light.

    Args:
        places: points [3, N].
        to_light: from there to the light [3, N].
        what: the surface of each point [N]. A convex solid never shadows itself on its lit side.

    Returns:
        bool [N].
    """
    free = np.full(what.shape, True)
    length = dot(to_light, to_light)
    for number, solid in enumerate(scene.solids):
        offsets = solid.centre.over(1) - places
        along = dot(offsets, to_light)
        # The light's ray passes the ball around the solid, ahead of the point.
        near = dot(offsets, offsets) - along * along / length < solid.radius * solid.radius
        rows = np.flatnonzero(near & free & (along > 0) & (what != SOLIDS + number))
        if len(rows):
            with np.errstate(divide="ignore", invalid="ignore"):
                times, _ = solid.enter(at(places, rows), at(to_light, rows))
            free[rows[times < 1]] = False
    return free
