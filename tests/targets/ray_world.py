"""The world of the cache with teachers that any process can open."""

from pathlib import Path

import cache_world
import toys
from ray_cluster import timm_student

KINDS = {"hue": toys.classification(3), "shape": toys.segmentation(2)}


def make(folder: Path) -> Path:
    """As `cache_world.make`, with networks of timm."""
    recipe = cache_world.make(folder)
    for number, task in enumerate(KINDS):
        teacher(folder, task, seed=number)
    return recipe


def teacher(world: Path, task: str, *, seed: int) -> None:
    """Another teacher of a task."""
    timm_student(world / "teachers" / task, {task: KINDS[task]}, seed=seed)
