"""The picture of a scene: texture, light with soft shadows, mirrored surroundings, haze, and a sensor.

Local light is Lambert's and Blinn's (1977), all in linear light; the display's curve is a square root.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from distill_mtl.data.scenes.scene import FAR, Material, Scene
from distill_mtl.data.scenes.textures import pattern
from distill_mtl.data.scenes.trace import FLOOR, SOLIDS, Surfaces, lit, trace
from distill_mtl.data.scenes.vectors import Floats, Vector, at, dot, unit
from distill_mtl.data.splitmix import draws, fold, uniforms

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
    """First colour [3, K], the way from it to the second [3, K] and shine [K] of all that rays can find.

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
    """How much of the surroundings a point of the floor sees [N], as far as balls in the solids' place say.

    Elsewhere it is 1, but for a darkening towards the floor.
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
    """Where in the lamp each ray looks [3, N], from -1 to 1; over a pixel's rays that makes shadows soft."""
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
