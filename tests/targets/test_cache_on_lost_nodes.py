"""A cache that a cluster fills while its nodes are killed and others join is the cache of one process."""

import os
import random
import subprocess
import time
from pathlib import Path

import cache_world
import children
import pytest
import ray_cluster
import ray_world
import toy_world
import yaml
from rich.console import Console

from distill_mtl.jobs.cache import write_cache

cluster_utils = pytest.importorskip("ray.cluster_utils", reason="the extra `ray` is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
SHARDS, KILLS = 24, int(os.environ.get("DISTILL_MTL_KILLS", "10"))
NODE = {"num_cpus": 1, "object_store_memory": ray_cluster.STORE}
OPTIONS = ("targets.views=60", "evaluation.batch_size=60")  # a row at a time, so that a piece takes a while


def make(folder: Path) -> Path:
    """The world with its training rows in many small shards."""
    recipe = ray_world.make(folder)
    changed = yaml.safe_load(recipe.read_text())
    for task in ("hue", "shape"):
        rows = [
            row for path in sorted(folder.glob(f"{task}-train*.tar")) for row in toy_world.read_shard(path)
        ]
        for path in folder.glob(f"{task}-train*.tar"):
            path.unlink()
        for shard in range(SHARDS):
            toy_world.write_rows(folder / f"{task}-train-{shard:02d}.tar", rows[shard::SHARDS])
        changed["tasks"][task]["data"]["shards"] = f"{folder}/{task}-train-*.tar"
    recipe.write_text(yaml.safe_dump(changed))
    return recipe


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in cache_world.sidecars(folder)}


def fill_on_dying_nodes(recipe: Path) -> tuple[list[int], str]:
    """Whenever files have come, one or both nodes are killed, and as many join. How many files there were at each kill,
    and what the command said."""
    ray_cluster.settle()
    chance, kills = random.Random(0), list[int]()
    # The head node, where the command runs, has no core for tasks.
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0})
    nodes = [cluster.add_node(**NODE) for _ in range(2)]
    options = [f"--set={option}" for option in OPTIONS]
    process = subprocess.Popen(
        children.command("cache", recipe, "--ray", cluster.address, *options),
        cwd=children.ROOT,
        env=children.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        while process.poll() is None:
            there = len(cache_world.sidecars(recipe.parent))
            if len(kills) < KILLS and there > max(kills, default=0):
                time.sleep(chance.uniform(0, 0.3))  # somewhere in a piece
                killed = chance.choice((1, 2))
                for _ in range(killed):
                    cluster.remove_node(nodes.pop(chance.randrange(len(nodes))), allow_graceful=False)
                    kills.append(there)
                nodes += [cluster.add_node(**NODE) for _ in range(killed)]
            time.sleep(0.02)
        said, _ = process.communicate()
    finally:
        process.kill()
        cluster.shutdown()
    assert process.returncode == 0, said
    return kills, said


def test_killed_and_joining_nodes_lose_and_double_no_row(tmp_path: Path) -> None:
    recipe = make(tmp_path / "world")
    write_cache(recipe, OPTIONS, console=Console(quiet=True))
    alone = contents(recipe.parent)
    assert len(alone) == 4 * SHARDS, "of each teacher about the rows of both sources"
    for path in cache_world.sidecars(recipe.parent):
        path.unlink()
    kills, said = fill_on_dying_nodes(recipe)
    print(f"{len(kills)} nodes were killed, when there were {kills} of {len(alone)} files\n{said}")  # noqa: T201
    assert len(kills) >= KILLS
    assert contents(recipe.parent) == alone
    assert not list(recipe.parent.glob(".*.part"))
    assert "raylet" not in said, "Ray's own lines"
