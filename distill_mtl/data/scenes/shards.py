"""The rows of the built-in shards `scenes:SET-SPLIT`: one scene each, with one kind of label.

Sets: `depth` (depth.png), `normals` (normals.png), `segment` (seg.png), `attributes` (attributes.json) and
`objects` (boxes.json). Every row of every set has a scene of its own, so no picture has two labels.
"""

import io
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill_mtl.data.scenes.attributes import attributes
from distill_mtl.data.scenes.compose import compose
from distill_mtl.data.scenes.labels import class_pixels, depth_pixels, normal_pixels, sights
from distill_mtl.data.scenes.render import SIDE, picture
from distill_mtl.data.scenes.scene import Scene
from distill_mtl.data.scenes.trace import Surfaces, trace
from distill_mtl.data.split import Split

VERSION = 1
ROWS: dict[Split, int] = {"train": 2400, "validation": 300, "test": 500}


def scene(name: str, split: Split, row: int) -> Scene:
    """What stands behind a row."""
    return compose(name, split, row, VERSION)


def samples(name: str, split: Split) -> Iterator[dict[str, str | bytes]]:
    """The rows of one split of one set in order; several are rendered at a time."""
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, ROWS[split], _CHUNK):
            rows = range(first, min(first + _CHUNK, ROWS[split]))
            yield from pool.map(lambda row: _sample(name, split, row), rows)


_CHUNK = 100  # scenes on their way at a time, so that little is left to do when the command is stopped


def _sample(name: str, split: Split, row: int) -> dict[str, str | bytes]:
    member, label = LABELS[name]
    seen = scene(name, split, row)
    return {
        "__key__": f"{name}-{split}-{row:05d}",
        "png": _png(picture(seen)),
        member: label(seen, trace(seen, SIDE)),
    }


def _boxes(seen: Scene, surfaces: Surfaces) -> bytes:
    boxes = [
        {"class": seen.solids[sight.number].shape, "box": list(sight.box)} for sight in sights(seen, surfaces)
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
