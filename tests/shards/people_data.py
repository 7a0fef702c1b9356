"""Small data sets as people have them, and the way back from shards to labels."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from PIL import Image

from distill_mtl import load_recipe
from distill_mtl.data import DataSettings, Sources, open_sources
from distill_mtl.data.reader import read_labels
from distill_mtl.recipe import Recipe
from distill_mtl.tasks.base import TaskKind, build_kind

ANIMALS = ("bird", "cat", "dog")


def pixels(number: int, height: int = 6, width: int = 8) -> np.ndarray:
    """A picture that no other number has."""
    return np.random.RandomState(number).randint(0, 256, (height, width, 3)).astype(np.uint8)


def save_picture(path: Path, number: int, **size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(number, **size)).save(path)
    return path


def save_mask(path: Path, number: int, classes: int = 3, height: int = 6, width: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask(number, classes, height, width)).save(path)
    return path


def mask(number: int, classes: int = 3, height: int = 6, width: int = 8) -> np.ndarray:
    return np.random.RandomState(1000 + number).randint(0, classes, (height, width)).astype(np.uint8)


def animals(folder: Path, count: int = 12) -> Path:
    """An image folder: picture `number` is of class number % 3."""
    for number in range(count):
        save_picture(folder / ANIMALS[number % 3] / f"photo.{number:02d}.png", number)
    return folder


def members(shards: Sequence[Path]) -> dict[str, dict[str, bytes]]:
    """Key -> ending -> content, by webdataset's own reader."""
    found: dict[str, dict[str, bytes]] = {}
    for sample in webdataset.WebDataset([str(shard) for shard in shards], shardshuffle=False):
        found[sample["__key__"]] = {k: v for k, v in sample.items() if not k.startswith("__")}
    return found


def digests(folder: Path) -> dict[str, str]:
    """Shard -> SHA-256 of its bytes."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.tar"))}


def picture_of(sample: dict[str, bytes]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(sample["png"])).convert("RGB"))


def load_lines(lines: str, path: Path) -> Recipe:
    """The lines of recipe that a command printed, with the one line that they do not give."""
    path.write_text(f"student: test_resnet\n{lines}", encoding="utf-8")
    return load_recipe(path)


def opened(recipe: Recipe, kinds: dict[str, TaskKind] | None = None) -> tuple[Sources, dict[str, TaskKind]]:
    """The sources of a recipe as a run opens them."""
    built = kinds or {
        name: build_kind(task.kind, class_names(task.classes), **task.options)
        for name, task in recipe.tasks.items()
    }
    return open_sources(DataSettings.of(recipe), built, (6, 8), every_set=False), built


def class_names(classes: Any) -> tuple[str, ...]:
    return tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(classes or ())


def labels_by_key(recipe: Recipe, task: str) -> dict[str, torch.Tensor]:
    """Key -> label, read as training reads it."""
    sources, kinds = opened(recipe)
    (source,) = sources.opened
    rows = list(range(len(source)))
    keys = [key.rpartition("/")[2] for key in source.keys(rows)]
    return dict(zip(keys, read_labels(source, rows, task, kinds[task]), strict=True))
