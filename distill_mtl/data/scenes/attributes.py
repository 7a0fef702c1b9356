"""Yes-or-no questions about a picture that need looking, each answered yes on a tenth to nine tenths of them."""

from collections.abc import Callable, Sequence

import numpy as np

from distill_mtl.data.scenes.labels import Sight, sights
from distill_mtl.data.scenes.scene import Scene, Solid
from distill_mtl.data.scenes.trace import SOLIDS, Surfaces

_STEEP = 0.48  # downward part of the line of sight, of 1
_PEBBLE_PIXELS = 8
_HIDDEN = 0.85  # of the pixels it would fill alone; a solid that shows less of them is partly hidden


def attributes(scene: Scene, surfaces: Surfaces) -> list[int]:
    """0 or 1 for each of ATTRIBUTES."""
    seen = sights(scene, surfaces)
    solids = [scene.solids[sight.number] for sight in seen]
    return [int(question(scene, surfaces, seen, solids)) for question in _QUESTIONS.values()]


_Question = Callable[[Scene, Surfaces, Sequence[Sight], Sequence[Solid]], bool]


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
        sight.pixels < _HIDDEN * surfaces.alone[sight.number] for sight in seen
    ),
    "pebbles": lambda scene, surfaces, seen, solids: _pebbles(scene, surfaces),
    "checkered_floor": lambda scene, surfaces, seen, solids: scene.floor.material.pattern == "checker",
    "wall": lambda scene, surfaces, seen, solids: scene.wall is not None,
    "light_from_left": lambda scene, surfaces, seen, solids: scene.light.place.dot(scene.camera.right) < 0,
    "dark_shadows": lambda scene, surfaces, seen, solids: scene.hard,
    "from_above": lambda scene, surfaces, seen, solids: -scene.camera.forward.z > _STEEP,
}
ATTRIBUTES = tuple(_QUESTIONS)
