"""The toy world with two training shards a source, and its commands as a user's own processes run them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import toy_world

from distill_mtl import load_recipe
from distill_mtl.data.batch import Batch
from distill_mtl.jobs.cache import write_cache
from distill_mtl.training.parts import Parts, build

ROOT = Path(__file__).parents[2]
ROWS = 2 * 2 * toy_world.ROWS
TWO = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0")
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


def command(*arguments: str, launcher: tuple[str, ...] = ()) -> list[str]:
    return [sys.executable, *launcher, str(Path(__file__).with_name("cache_toys.py")), *arguments]


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }


def run(*arguments: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    torch.set_num_threads(1)
    return subprocess.run(
        command(*arguments, launcher=launcher),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
