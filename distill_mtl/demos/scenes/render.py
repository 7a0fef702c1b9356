"""What the camera sees through each pixel, and the picture of it.

`trace` finds the nearest surfaces; `picture` adds texture, light with soft shadows, mirrored surroundings, haze and a
sensor. Local light is Lambert's and Blinn's (1977), all in linear light; the display's curve is a square root.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from distill_mtl.demos.scenes.scene import FAR, Floats, Material, Scene, Vector, at, dot, unit
from distill_mtl.splitmix import draws, fold, uniforms

NOTHING, FLOOR, WALL, SOLIDS = -1, 0, 1, 2


@dataclass(frozen=True)
class Surfaces:
    """The nearest surfaces on a grid of rays.

    Attributes:
        what: int8 [side, side]: NOTHING, FLOOR, WALL, and SOLIDS + i for the scene's solid i.
        depth: [side, side], metres along the line of sight; infinite where there is nothing.
        normals: [3, side, side], unit vectors in the world; zero where there is nothing.
        alone: for each solid, the pixels that it would fill without occlusion.
    """

    what: NDArray[np.int8]
    depth: Floats
    normals: Floats
    alone: tuple[int, ...]


def trace(scene: Scene, side: int) -> Surfaces:
    """The first surface on each of `side` x `side` rays through the centres of pixels.

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
    """The points with nothing between them and the light.

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


_CELLS = 16  # of the noise along each axis, before it repeats


def pattern(name: str, places: Floats) -> Floats:
    """The share of the second colour [...] at points [3, ...], in cells of the pattern.

    Stripes run across the third axis of the points.
    """
    if name == "plain":
        return np.zeros(places.shape[1:])
    if name == "noise":
        return np.clip(1.4 * (0.65 * _noise(places) + 0.35 * _noise(2 * places + 5.5)) - 0.2, 0, 1)
    cells = np.floor(places)
    total = cells[2] if name == "stripes" else cells[0] + cells[1] + cells[2]
    return total - 2 * np.floor(total / 2)


def _noise(places: Floats) -> Floats:
    """Value noise [...]: random numbers at whole places, blended in between (Perlin's fade of 1985)."""
    cells = np.floor(places)
    parts = places - cells
    x, y, z = parts * parts * (3 - 2 * parts)
    low = cells.astype(np.int64) & (_CELLS - 1)
    high = (low + 1) & (_CELLS - 1)
    lattice = _lattice()

    def row(j: NDArray[np.int64], k: NDArray[np.int64]) -> Floats:
        start = (j * _CELLS + k) * _CELLS
        one, other = np.take(lattice, start + low[0]), np.take(lattice, start + high[0])
        return one + x * (other - one)

    def sheet(k: NDArray[np.int64]) -> Floats:
        one, other = row(low[1], k), row(high[1], k)
        return one + y * (other - one)

    one, other = sheet(low[2]), sheet(high[2])
    blended: Floats = one + z * (other - one)
    return blended


@cache
def _lattice() -> Floats:
    return uniforms(fold("scenes", "noise"), _CELLS**3)[0]


SIDE = 64
SAMPLES = 2  # rays along each axis of a pixel


def picture(scene: Scene) -> NDArray[np.uint8]:
    """uint8 [64, 64, 3]."""
    fine = SIDE * SAMPLES
    light = _light(scene, trace(scene, fine), scene.camera.rays(fine).reshape(3, -1))
    return _developed(scene, light.reshape(3, SIDE, SAMPLES, SIDE, SAMPLES))


def _light(scene: Scene, surfaces: Surfaces, rays: Floats) -> Floats:
    """Light [3, N] that comes along the rays [3, N] on which the surfaces were found."""
    what, normals = surfaces.what.ravel(), surfaces.normals.reshape(3, -1)
    sight = unit(rays)
    # The sky is shaded like a surface without colour, on which the haze is full.
    depth = np.minimum(surfaces.depth.ravel(), FAR)
    places = scene.camera.eye.over(1) + depth * rays
    towards = scene.light.place.over(1) + scene.light.radius * _lamp() - places
    facing = np.flatnonzero(dot(normals, towards) > 0)
    bright = facing[lit(scene, at(places, facing), at(towards, facing), what[facing])]
    to_light = unit(at(towards, bright))
    direct = np.zeros(what.shape)
    direct[bright] = dot(at(normals, bright), to_light)

    albedo, shine = _surface(scene, what, depth, places, dot(normals, sight))
    ambient = (0.75 + 0.25 * normals[2]) * _openness(scene, what, places)
    colours = albedo * (scene.light.ambient.over(1) * ambient + scene.light.colour.over(1) * direct)
    glossy = np.flatnonzero(shine)
    if len(glossy):
        colours[:, glossy] += shine[glossy] * _mirrored(scene, at(normals, glossy), at(sight, glossy))
        among = np.flatnonzero(shine[bright])
        rows = bright[among]
        highlight = _highlight(at(normals, rows), at(to_light, among), at(sight, rows))
        colours[:, rows] += scene.light.colour.over(1) * (4 * shine[rows] * highlight)
    if scene.wall is None:
        behind = _sky(scene, sight[2])
        colours += depth * depth / (FAR * FAR) * (behind - colours)
    return colours


def _highlight(normals: Floats, towards: Floats, sight: Floats) -> Floats:
    """Blinn's highlight [N]: the cosine between normal and halfway vector, to the power of 64."""
    cosine = np.maximum(dot(normals, unit(towards - sight)), 0)
    for _ in range(6):
        cosine = cosine * cosine
    return cosine


def _surface(
    scene: Scene, what: NDArray[np.int8], depth: Floats, places: Floats, slant: Floats
) -> tuple[Floats, Floats]:
    """Colour [3, N] and shine [N] of each surface; patterns finer than a ray fade into their mean."""
    share = np.zeros(what.size)
    for number in np.flatnonzero(np.bincount(what + 1)[1:]):
        rows = np.flatnonzero(what == number)
        if number >= SOLIDS:
            solid = scene.solids[number - SOLIDS]
            material = solid.material
            own = solid.turned(at(places, rows) - solid.centre.over(1))
        else:
            plane = scene.planes[number]
            material = plane.material
            own = plane.on_it(at(places, rows))
        if material.pattern == "plain":
            continue
        if material.upright:
            own = own[[1, 2, 0]]
        second = pattern(material.pattern, own * material.cells + material.offset.over(1))
        width = depth[rows] * (2 * scene.camera.spread / (SIDE * SAMPLES)) / np.maximum(-slant[rows], 0.01)
        blur = width * material.cells
        blur = blur * blur
        share[rows] = 0.5 + (second - 0.5) / (1 + 4 * blur * blur)
    firsts, steps, shine = _materials(scene)
    albedo = np.take(firsts, what, axis=1, mode="wrap") + share * np.take(steps, what, axis=1, mode="wrap")
    return albedo, np.take(shine, what, mode="wrap")


def _materials(scene: Scene) -> tuple[Floats, Floats, Floats]:
    """First colour [3, K], its difference to the second [3, K], and shine [K] of everything that rays can hit.

    In the order of Surfaces.what; the last one is NOTHING, -1, which is black.
    """
    nothing = Material(Vector(0, 0, 0), Vector(0, 0, 0), "plain", 0, Vector(0, 0, 0))
    planes = [plane.material for plane in scene.planes]
    planes += [nothing] * (SOLIDS - len(planes))
    materials = [*planes, *(solid.material for solid in scene.solids), nothing]
    firsts = np.array([material.first for material in materials]).T
    seconds = np.array([material.second for material in materials]).T
    return firsts, seconds - firsts, np.array([material.shine for material in materials])


def _openness(scene: Scene, what: NDArray[np.int8], places: Floats) -> Floats:
    """The share of the surroundings that a point of the floor sees [N], with balls in place of the solids.

    Elsewhere it is 1, darker towards the floor.
    """
    open_ = np.minimum(0.55 + 0.9 * places[2], 1.0)
    rows = np.flatnonzero(what == FLOOR)
    x, y = places[0][rows], places[1][rows]
    seen = np.ones(rows.size)
    for solid in scene.solids:
        centre, radius = solid.centre, (solid.half.x + solid.half.y + solid.half.z) / 3
        east, north = x - centre.x, y - centre.y
        square = east * east + north * north + centre.z * centre.z
        # A ball at this distance hides r² / d² of a surface's light, less where it stands low over it.
        seen = seen * (1 - np.minimum(0.9 * radius * radius * centre.z / (square * np.sqrt(square)), 0.9))
    open_[rows] = seen
    return open_


@cache
def _lamp() -> Floats:
    """The point of the lamp for each ray [3, N], from -1 to 1; different points make shadows soft."""
    return 2 * uniforms(fold("scenes", "lamp"), 3 * (SIDE * SAMPLES) ** 2).reshape(3, -1) - 1


def _mirrored(scene: Scene, normals: Floats, sight: Floats) -> Floats:
    """Light [3, N] of the surroundings in a mirror, more of it at grazing sight (after Schlick, 1994)."""
    slant = dot(normals, sight)
    upwards = sight[2] - 2 * slant * normals[2]
    floor = scene.floor.material
    ground = _mixed(floor.first, floor.second, 0.5).over(1) * scene.light.colour.over(1) * 0.6
    grazing = (1 + slant) * (1 + slant)
    seen: Floats = np.where(upwards > 0, _sky(scene, upwards), ground) * (0.5 + 2.5 * grazing * (1 + slant))
    return seen


def _sky(scene: Scene, upwards: Floats) -> Floats:
    """Light [3, N] of the sky for the upward part [N] of unit directions."""
    height = np.clip(2.5 * upwards, 0, 1)
    horizon = scene.horizon.over(1)
    sky: Floats = horizon + (scene.zenith.over(1) - horizon) * height
    return sky


def _mixed(one: Vector, other: Vector, share: float) -> Vector:
    return one.along(other - one, share)


def _developed(scene: Scene, light: Floats) -> NDArray[np.uint8]:
    """Light [3, 64, 2, 64, 2] as a picture [64, 64, 3] with grain."""
    mean = (light[:, :, 0, :, 0] + light[:, :, 0, :, 1] + light[:, :, 1, :, 0] + light[:, :, 1, :, 1]) / 4
    shown = 255 * np.sqrt(np.clip(mean * scene.exposure, 0, 1))
    grain = draws(fold(scene.noise_key, "grain"), 3 * SIDE * SIDE // 4)[0].astype("<u8").view("<u2")
    # The difference of a number's two bytes: a triangle from -255 to 255, near enough to a bell.
    noise = (grain >> 8).astype(np.float64) - (grain & 255)
    noisy = shown + noise.reshape(3, SIDE, SIDE) * (scene.grain / 255)
    return np.ascontiguousarray(np.clip(np.floor(noisy + 0.5), 0, 255).astype(np.uint8).transpose(1, 2, 0))
