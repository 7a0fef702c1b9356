"""kill -9 at a random moment of a run, a cache and an export: the same command then ends to the bit."""

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import children
import pytest
import toy_world

CHANGES = ("training.steps=30", "training.checkpoint_every=3", "training.log_every=1", "training.ema=0.9")
JOBS = ("run", "cache", "export")
TIMELESS = ("seconds", "rows_per_second")


class World:
    """The commands of a job in a folder of its own, and the bits that they leave."""

    def __init__(self, folder: Path) -> None:
        (folder / "world").mkdir()
        self.recipe = toy_world.build(folder / "world")
        self.student = self.recipe.parent / "teachers" / "hue"

    def command(self, job: str, out: Path, *, again: bool) -> list[str]:
        if job == "run":
            changes = [f"--set={change}" for change in CHANGES]
            begun = ["--resume"] if again and (out / "recipe.resolved.yaml").exists() else []
            return children.command("distill", self.recipe, "--out", out, *changes, *begun)
        if job == "cache":
            return children.command("cache", "write", self.recipe, "--set=targets.views=2")
        return children.command("export", self.student, "--to", "torchscript", "--out", out / "net.ts")

    def bits(self, job: str, out: Path) -> dict[str, str]:
        if job == "run":
            lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
            kept = [{key: value for key, value in line.items() if key not in TIMELESS} for line in lines]
            files = [out / "student" / "model.safetensors"]
            return {"metrics": json.dumps(kept)} | {path.name: digest(path) for path in files}
        if job == "cache":
            return {path.name: digest(path) for path in self.recipe.parent.glob("*.safetensors")}
        return {"net.ts": str((out / "net.ts").stat().st_size)}

    def clear(self, job: str, out: Path) -> None:
        shutil.rmtree(out, ignore_errors=True)
        for path in self.recipe.parent.glob("*.safetensors") if job == "cache" else ():
            path.unlink()


def digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def started(command: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=children.ROOT,
        env=children.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def killed_and_ended(
    world: World, job: str, out: Path, moments: Sequence[float]
) -> Iterator[tuple[float, str]]:
    """Moment of each kill, as a share of the whole command's time, and what came of it."""
    world.clear(job, out)
    began = time.monotonic()
    process = started(world.command(job, out, again=False))
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    whole, expected = time.monotonic() - began, world.bits(job, out)
    for moment in moments:
        world.clear(job, out)
        process = started(world.command(job, out, again=False))
        time.sleep(moment * whole)
        process.kill()
        process.communicate()
        process = started(world.command(job, out, again=True))
        _, errors = process.communicate(timeout=300)
        if process.returncode:
            yield moment, f"ended with {process.returncode}: {errors[-300:]}"
        elif world.bits(job, out) != expected:
            yield moment, "other bits"
        elif left := [path.name for place in (out, world.recipe.parent) for path in place.rglob("*.part")]:
            yield moment, f"left {left}"
        else:
            yield moment, "to the bit"


@pytest.mark.parametrize("job", JOBS[:2])
def test_a_command_that_is_killed_ends_to_the_bit_when_it_is_started_again(tmp_path: Path, job: str) -> None:
    moments = [random.Random(job).uniform(0.6, 0.95)]
    found = list(killed_and_ended(World(tmp_path), job, tmp_path / "out", moments))
    assert [what for _, what in found] == ["to the bit"], found


@pytest.mark.slow
def test_a_hundred_kills_end_to_the_bit(tmp_path: Path) -> None:
    world, generator, table = World(tmp_path), random.Random(0), list[tuple[str, float, str]]()
    for job, times in zip(JOBS, (60, 25, 15), strict=True):
        moments = [generator.uniform(0.2, 1.0) for _ in range(times)]
        table += [(job, *found) for found in killed_and_ended(world, job, tmp_path / "out", moments)]
    for job, moment, what in table:
        sys.stdout.write(f"{job:8} killed at {moment:4.0%}  {what}\n")
    assert all(what == "to the bit" for _, _, what in table)
