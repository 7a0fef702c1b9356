"""The toy world with two training shards a source."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import toy_world

from distill_mtl import load_recipe
from distill_mtl.data.batch import Batch
from distill_mtl.jobs.cache import write_cache
from distill_mtl.training.parts import Parts, build

ROWS = 2 * 2 * toy_world.ROWS
VIEWS = ("targets.views=3", "tasks.hue.hints=[{form: map}]", "tasks.shape.hints=[{form: map}]")


def make(folder: Path) -> Path:
    """The recipe of a world in `folder`, its sources cut into two shards."""
    folder.mkdir(exist_ok=True)
    recipe = toy_world.build(folder)
    generator = np.random.default_rng(1)
    toy_world.write_shard(folder / "hue-train-1.tar", generator, "cls")
    toy_world.write_shard(folder / "shape-train-1.tar", generator, "seg.png")
    text = recipe.read_text()
    for source in ("hue", "shape"):
        shards = f"[{folder}/{source}-train.tar, {folder}/{source}-train-1.tar]"
        text = text.replace(f"shards: {folder}/{source}-train.tar", f"shards: {shards}")
    recipe.write_text(text)
    return recipe


def cached(folder: Path, *overrides: str) -> Path:
    """A world whose cache is written."""
    recipe = make(folder)
    write_cache(recipe, overrides)
    return recipe


def parts(recipe: Path, *overrides: str) -> Parts:
    return build(load_recipe(recipe, overrides))


def sidecars(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def batches(built: Parts, steps: int) -> Iterator[Batch]:
    return (batch.to("cpu") for batch in built.sources.stream(steps=steps))
