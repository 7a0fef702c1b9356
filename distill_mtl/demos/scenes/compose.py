"""A random scene: camera, room or open sky, light, and solids that stand on the floor and do not touch."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from distill_mtl.demos.scenes.scene import (
    PATTERNS,
    SHAPES,
    Camera,
    Light,
    Material,
    Plane,
    Scene,
    Solid,
    Vector,
    turn,
)
from distill_mtl.splitmix import Hashes, fold, uniforms

Side = TypeVar("Side")
_DRAWS = 1024


class Dice:
    """Random numbers from one key of SplitMix64, in the order of the calls.

    Args:
        key: uint64 [1], from `fold`.
    """

    def __init__(self, key: Hashes) -> None:
        self._numbers = iter(uniforms(key, _DRAWS)[0].tolist())

    def between(self, low: float, high: float) -> float:
        """A number from `low` on and below `high`."""
        return low + (high - low) * float(next(self._numbers))

    def whole(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return low + int(self.between(0, high - low + 1))

    def says(self, chance: float) -> bool:
        """True with this probability."""
        return self.between(0, 1) < chance

    def pick(self, sides: Sequence[Side]) -> Side:
        """One of them, all equally likely."""
        return sides[self.whole(0, len(sides) - 1)]


COLOURS: dict[str, Vector] = {
    "red": Vector(0.86, 0.14, 0.13),
    "orange": Vector(0.95, 0.56, 0.12),
    "yellow": Vector(0.94, 0.84, 0.22),
    "green": Vector(0.25, 0.66, 0.28),
    "cyan": Vector(0.17, 0.66, 0.70),
    "blue": Vector(0.20, 0.36, 0.86),
    "purple": Vector(0.55, 0.28, 0.74),
    "white": Vector(0.90, 0.89, 0.87),
}
_WHITE, _BLACK = Vector(1.0, 1.0, 1.0), Vector(0.02, 0.02, 0.03)
_TRIES = 20  # places for a solid before it is left out
_GAP = 0.06  # metres between two of them


def compose(name: str, split: str, row: int, version: int) -> Scene:
    """The scene of one row of one split of one set, the same on every machine."""
    dice = Dice(fold("scenes", version, name, split, row))
    height, distance = dice.between(0.7, 3.3), dice.between(3.3, 4.6)
    camera = Camera.towards(
        eye=Vector(0, 0, height),
        target=Vector(dice.between(-0.3, 0.3), distance, 0.35),
        roll=dice.between(-0.06, 0.06),
        spread=dice.between(0.38, 0.52),
    )
    floor = Plane(Vector(0, 0, 0), Vector(0, 0, 1), Vector(*_direction(dice), 0), _floor_material(dice))
    wall = _wall(dice, distance) if dice.says(0.5) else None
    hard = dice.says(0.5)
    light = _light(dice, Vector(0, distance, 0.3), hard, indoors=wall is not None)
    solids = _solids(dice, camera, distance, wall)
    if wall is None:
        zenith = Vector(dice.between(0.15, 0.45), dice.between(0.4, 0.62), dice.between(0.75, 0.95))
        pale = dice.between(0.75, 0.9)
        horizon = Vector(pale, pale * dice.between(0.92, 1.0), pale * dice.between(0.85, 1.0))
    else:
        horizon, zenith = Vector(0.75, 0.75, 0.75), Vector(0.95, 0.95, 0.95)
    return Scene(
        camera=camera,
        solids=tuple(solids),
        floor=floor,
        wall=wall,
        light=light,
        horizon=_linear(horizon),
        zenith=_linear(zenith),
        exposure=dice.between(0.8, 1.1),
        grain=dice.between(2, 9),
        hard=hard,
        noise_key=int(fold("scenes noise", version, name, split, row)[0]),
    )


def _wall(dice: Dice, distance: float) -> Plane:
    across, towards = turn(dice.between(-0.2, 0.2))
    return Plane(
        point=Vector(0, distance + dice.between(1.6, 3.2), 0),
        normal=Vector(towards, -across, 0),
        along=Vector(across, towards, 0),
        material=_muted(dice, dice.pick(("plain", "plain", "stripes", "noise")), dice.between(1, 3)),
    )


def _light(dice: Dice, target: Vector, hard: bool, indoors: bool) -> Light:
    """From the left or from the right, never between; in a room from the camera's side of it."""
    aside = dice.between(0.4, 1.1) * dice.pick((-1, 1))
    behind = dice.between(-0.9, 0.0 if indoors else 0.6)
    direction = Vector(aside, behind, dice.between(0.55, 1.2)).unit()
    away = dice.between(3.5, 5.0) if indoors else 200.0
    ambient = dice.between(0.13, 0.22) if hard else dice.between(0.55, 0.7)
    warmth = dice.between(0.0, 0.14)
    strength = 1.15 - ambient
    return Light(
        place=target.along(direction, away),
        radius=away * (dice.between(0.01, 0.03) if hard else dice.between(0.03, 0.08)),
        colour=Vector(strength * (1 + warmth / 2), strength, strength * (1 - warmth)),
        ambient=Vector(ambient * (1 - warmth / 3), ambient, ambient * (1 + warmth / 2)),
    )


def _solids(dice: Dice, camera: Camera, distance: float, wall: Plane | None) -> list[Solid]:
    """One to five solids, and pebbles in half of the scenes. The first solid always has a place."""
    placed: list[Solid] = []
    counts = dice.pick((1, 2, 3, 3, 4, 5)), dice.whole(2, 7) if dice.says(0.5) else 0
    for number in range(sum(counts)):
        clutter = number >= counts[0]
        solid = _pebble(dice) if clutter else _solid(dice)
        for _ in range(_TRIES):
            depth = dice.between(distance - 1.5, distance + 2.0)
            aside = dice.between(-0.78, 0.78) * camera.spread * depth
            centre = Vector(aside, depth, solid.centre.z)
            if _fits(centre, _footprint(solid), placed, wall):
                placed.append(replace(solid, centre=centre))
                break
    return placed


def _fits(centre: Vector, reach: float, placed: list[Solid], wall: Plane | None) -> bool:
    if wall is not None and (centre - wall.point).dot(wall.normal) < reach + _GAP:
        return False
    for other in placed:
        apart, least = other.centre - centre, reach + _footprint(other) + _GAP
        if apart.x * apart.x + apart.y * apart.y <= least * least:
            return False
    return True


def _footprint(solid: Solid) -> float:
    """Radius of a circle on the floor about all that is above it."""
    if solid.shape == "box":
        return math.sqrt(solid.half.x * solid.half.x + solid.half.y * solid.half.y)
    return max(solid.half.x, solid.half.y)


def _solid(dice: Dice) -> Solid:
    """One of the four shapes in a bright colour, without a place yet."""
    shape = dice.pick(tuple(SHAPES))
    wide, tall = dice.between(0.32, 0.55), dice.between(0.3, 0.65)
    if shape == "sphere":
        wide = tall = dice.between(0.36, 0.66)
    deep = dice.between(0.32, 0.55) if shape == "box" else wide
    colour = dice.pick(tuple(COLOURS))
    cosine, sine = _direction(dice)
    return Solid(
        shape=shape,
        centre=Vector(0, 0, tall),
        half=Vector(wide, deep, tall),
        cosine=cosine,
        sine=sine,
        material=_bright(dice, _jittered(dice, COLOURS[colour], 0.06)),
        colour=colour,
    )


def _pebble(dice: Dice) -> Solid:
    """A small flat stone."""
    wide = dice.between(0.06, 0.13)
    half = Vector(wide, wide * dice.between(0.6, 1.0), wide * dice.between(0.45, 0.7))
    grey = dice.between(0.3, 0.6)
    stone = Vector(grey * 1.06, grey, grey * dice.between(0.8, 1.0))
    cosine, sine = _direction(dice)
    material = Material(_linear(stone), _linear(_mix(stone, _BLACK, 0.4)), "noise", 20.0, _offset(dice))
    return Solid("sphere", Vector(0, 0, half.z), half, cosine, sine, material, "stone", clutter=True)


def _bright(dice: Dice, colour: Vector) -> Material:
    pattern = dice.pick(("plain", "plain", *PATTERNS[1:]))
    other = _mix(colour, _WHITE, 0.75) if dice.says(0.5) else _mix(colour, _BLACK, 0.75)
    return Material(
        first=_linear(colour),
        second=_linear(other),
        pattern=pattern,
        cells=dice.between(7, 10) if pattern == "noise" else dice.between(4, 6.5),
        offset=_offset(dice),
        upright=dice.says(0.4),
        shine=dice.between(0.16, 0.28) if dice.says(0.28) else 0.0,
    )


def _floor_material(dice: Dice) -> Material:
    pattern = dice.pick(("plain", "stripes", "checker", "noise", "noise", "checker"))
    return _muted(dice, pattern, dice.between(1.0, 2.2) if pattern != "noise" else dice.between(2, 5))


def _muted(dice: Dice, pattern: str, cells: float) -> Material:
    """Two shades of a nearly grey tone."""
    grey = dice.between(0.42, 0.78)
    tone = _jittered(dice, Vector(grey, grey, grey), 0.09)
    other = _mix(tone, _BLACK if grey > 0.55 else _WHITE, dice.between(0.3, 0.55))
    return Material(_linear(tone), _linear(other), pattern, cells, _offset(dice))


def _direction(dice: Dice) -> tuple[float, float]:
    """Cosine and sine of any angle, nearly evenly: a quarter turn of chance, and a part of one."""
    cosine, sine = turn(dice.between(-0.4142135623730951, 0.4142135623730951))
    for _ in range(dice.whole(0, 3)):
        cosine, sine = -sine, cosine
    return cosine, sine


def _offset(dice: Dice) -> Vector:
    return Vector(dice.between(0, 16), dice.between(0, 16), dice.between(0, 16))


def _jittered(dice: Dice, colour: Vector, reach: float) -> Vector:
    """A colour near this one, within 0 and 1."""
    near = [min(max(part + dice.between(-reach, reach), 0.0), 1.0) for part in colour]
    return Vector(*near)


def _mix(one: Vector, other: Vector, share: float) -> Vector:
    return one.along(other - one, share)


def _linear(shown: Vector) -> Vector:
    """Light that a display with a square-root curve shows as this colour."""
    return Vector(shown.x * shown.x, shown.y * shown.y, shown.z * shown.z)
