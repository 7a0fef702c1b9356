"""Small shards and recipes for the tests of this folder."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
from PIL import Image

from distill_mtl.data import DataSettings, Sources, open_sources
from distill_mtl.recipe.schema import Recipe
from distill_mtl.tasks.base import TaskKind, build_kind

CLASSES = ("cat", "dog", "bird")
KINDS: dict[str, TaskKind] = {
    "pet": build_kind("classification", CLASSES),
    "part": build_kind("segmentation", ("ground", "body")),
}


def png(pixels: np.ndarray) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    return encoded.getvalue()


def picture(number: int, height: int = 8, width: int = 8) -> bytes:
    """A picture whose pixels follow from its number."""
    return png(np.random.RandomState(number).randint(0, 256, (height, width, 3)).astype(np.uint8))


def mask(number: int, height: int = 8, width: int = 8) -> bytes:
    return png(np.random.RandomState(number).randint(0, 2, (height, width)).astype(np.uint8))


def pets(count: int, first: int = 0, **members: bytes) -> list[dict[str, Any]]:
    """Rows with a picture and a class."""
    return [
        {"__key__": f"{row:04d}", "png": picture(row), "cls": b"%d" % (row % 3), **members}
        for row in range(first, first + count)
    ]


def parts(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Rows with a picture and a mask."""
    return [
        {"__key__": f"{row:04d}", "png": picture(row + 1000), "seg.png": mask(row)}
        for row in range(first, first + count)
    ]


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path), encoder=False) as writer:
        for row in rows:
            writer.write(dict(row))
    return path


def recipe(data: Mapping[str, Any], *, batch_size: int = 8, seed: int = 0, **training: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "student": {"model": "resnet18"},
            "tasks": {"pet": {"classes": list(CLASSES)}, "part": {"kind": "segmentation", "classes": 2}},
            "data": data,
            "seed": seed,
            "training": {"batch_size": batch_size, **training},
        }
    )


def source(folder: Path, name: str, label: str, **options: Any) -> dict[str, Any]:
    """A source section for shards that `three_sets` wrote."""
    return {
        "shards": str(folder / f"{name}-train-{{0..1}}.tar"),
        "split": {split: str(folder / f"{name}-{split}.tar") for split in ("validation", "test")},
        "labels": {label: {"member": KINDS[label].member}},
        **options,
    }


def three_sets(folder: Path, name: str, make: Any, train: int) -> None:
    """Two training shards, and one each for validation (4 rows) and test (5 rows)."""
    write(folder / f"{name}-train-0.tar", make(train // 2))
    write(folder / f"{name}-train-1.tar", make(train - train // 2, first=train // 2))
    write(folder / f"{name}-validation.tar", make(4, first=500))
    write(folder / f"{name}-test.tar", make(5, first=600))


def open_two(
    folder: Path,
    *,
    batch_size: int = 8,
    seed: int = 0,
    size: int = 8,
    stream: Mapping[str, Any] | None = None,
    **options: Any,
) -> Sources:
    """40 pets and 11 parts, each labelled for one task."""
    if not (folder / "pets-test.tar").exists():
        three_sets(folder, "pets", pets, 40)
        three_sets(folder, "parts", parts, 11)
    data = {
        "pets": source(folder, "pets", "pet", **options),
        "parts": source(folder, "parts", "part", **options),
    }
    wanted = recipe(data, batch_size=batch_size, seed=seed, stream=stream or {})
    return open_sources(DataSettings.of(wanted), KINDS, (size, size))
