"""kill -9 at a random moment of a run, a cache and an export: the same command then ends to the bit.

The commands run in processes that are forked from one that has imported everything, so each moment falls into the
work itself, and a hundred of them take minutes.
"""

import json
import math
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import children
import pytest
import toy_world

from distill_mtl import files

CHANGES = ("training.steps=30", "training.checkpoint_every=3", "training.log_every=1", "training.ema=0.9")
KILLS = {"run": 60, "cache": 25, "export": 15}
TIMELESS = ("seconds", "rows_per_second", "waiting")
PATIENCE = 300.0
TO_THE_BIT = "to the bit"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and reads another process's CPU time")


class Kill(NamedTuple):
    """What came of one kill.

    Attributes:
        job: which was killed.
        moment: of the kill, as a share of the whole command's CPU time.
        stood: what lay in the folder then.
        outcome: of the same command afterwards.
    """

    job: str
    moment: float
    stood: str
    outcome: str


class World:
    """The commands of each job in a folder of its own, and the bits that they leave."""

    def __init__(self, folder: Path) -> None:
        (folder / "world").mkdir()
        self.recipe = toy_world.build(folder / "world")
        self.out, self.messages = folder / "out", folder / "messages.txt"
        self._forks = subprocess.Popen(
            children.command(script=("tests/forked_commands.py",)),
            cwd=children.ROOT,
            env=children.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # one line at a time, so that `select` sees the next
        )
        self._ask, self._answers = self._forks.stdin, self._forks.stdout
        self._answers.readline()

    def run(self, job: str, *, again: bool = False, most: float = math.inf) -> tuple[int, float]:
        """The exit status of a job's command, negative for a signal, and its CPU time.

        Args:
            job: which.
            again: after it was killed.
            most: CPU time in seconds, after which it is killed. Unlike the clock it says where the command is, however
                busy the machine.
        """
        if again:  # a user's command has to start first, and so meets no file that may yet become locked
            time.sleep(files._YOUNG)
        arguments = [str(self.messages), *self._arguments(job, again=again)]
        self._ask.write(json.dumps(arguments).encode() + b"\n")
        process, began, spent = int(self._answers.readline()), time.monotonic(), 0.0
        while not select.select([self._answers], [], [], 0.001)[0]:
            assert time.monotonic() < began + PATIENCE, f"{job} does not come to an end: {self.said()}"
            with suppress(OSError):  # it has just ended
                spent = time.clock_gettime(
                    (~process << 3) | 2
                )  # the process's clock, as clock_getcpuclockid has it
            if spent >= most:
                os.kill(process, signal.SIGKILL)
                break
        return int(self._answers.readline()), spent

    def said(self) -> str:
        return self.messages.read_text()[-300:]

    def bits(self, job: str) -> dict[str, str]:
        """What a job must leave, whatever came between."""
        if job == "run":
            lines = [json.loads(line) for line in (self.out / "metrics.jsonl").read_text().splitlines()]
            kept = [{key: value for key, value in line.items() if key not in TIMELESS} for line in lines]
            return {
                "metrics": json.dumps(kept),
                "student": digest(self.out / "student" / "model.safetensors"),
            }
        return {path.name: digest(path) for path in self._results(job)}

    def left(self) -> list[str]:
        """Unfinished files."""
        return [path.name for place in (self.out, self.recipe.parent) for path in place.rglob("*.part")]

    def stood(self, job: str) -> str:
        """How far the killed command had come."""
        steps = sorted(int(path.name.rpartition("_")[2]) for path in self.out.glob("checkpoints/step_*[0-9]"))
        if steps:
            return f"checkpoint of step {steps[-1]}"
        whole, parts = len(self._results(job)), len(self.left())
        return (
            " and ".join([f"{whole} whole"] * (whole > 0) + [f"{parts} unfinished"] * (parts > 0))
            or "nothing"
        )

    def clear(self, job: str) -> None:
        """As before the first run."""
        shutil.rmtree(self.out, ignore_errors=True)
        for path in self.recipe.parent.glob("*.safetensors*") if job == "cache" else ():
            path.unlink()

    def close(self) -> None:
        self._forks.communicate()

    def _results(self, job: str) -> list[Path]:
        if job == "cache":
            return sorted(self.recipe.parent.glob("*.safetensors"))
        return sorted(self.out.glob("*.ts"))

    def _arguments(self, job: str, *, again: bool) -> list[str]:
        recipe, out = str(self.recipe), str(self.out)
        if job == "run":
            changes = [f"--set={change}" for change in CHANGES]
            begun = ["--resume"] if again and (self.out / "recipe.resolved.yaml").exists() else []
            return ["distill", recipe, "--out", out, *changes, *begun]
        if job == "cache":
            return ["cache", "write", recipe, "--set=targets.views=2"]
        world = self.recipe.parent
        again_too = ["--overwrite"] if again else []
        return [
            *("export", str(world / "teachers" / "hue"), "--to", "torchscript", "--out", f"{out}/net.ts"),
            *("--data", str(world / "hue-test.tar"), *again_too),
        ]


def digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def kills(world: World, job: str, times: int, generator: random.Random) -> Iterator[Kill]:
    """So many kills of a job that were in time, spread over its length."""
    world.clear(job)
    status, whole = world.run(job)
    assert status == 0, world.said()
    expected, number = world.bits(job), 0
    while number < times:
        moment = (number + generator.random()) / times
        world.clear(job)
        status, spent = world.run(job, most=moment * whole)
        if status != -signal.SIGKILL:
            whole = min(whole, spent)  # it came to its end before
            continue
        number += 1
        yield Kill(job, moment, world.stood(job), _outcome(world, job, expected))


def _outcome(world: World, job: str, expected: Mapping[str, str]) -> str:
    """Of the same command after a kill."""
    status, _ = world.run(job, again=True)
    if status:
        return f"ended with {status}: {world.said()}"
    found = world.bits(job)
    if found != expected:
        return f"other bits: {[name for name in expected if found.get(name) != expected[name]]}"
    left = world.left()
    return f"left {left}" if left else TO_THE_BIT


@pytest.mark.parametrize("job", KILLS)
def test_a_command_that_is_killed_ends_to_the_bit_when_it_is_started_again(tmp_path: Path, job: str) -> None:
    world = World(tmp_path)
    found = list(kills(world, job, 1, random.Random(job)))
    world.close()
    assert [kill.outcome for kill in found] == [TO_THE_BIT], found


@pytest.mark.slow
def test_a_hundred_kills_end_to_the_bit(tmp_path: Path) -> None:
    world, generator, table = World(tmp_path), random.Random(0), list[Kill]()
    for job, times in KILLS.items():
        for kill in kills(world, job, times, generator):
            table.append(kill)
            sys.stdout.write(f"{kill.job:8} {kill.moment:4.0%}  {kill.stood:28} {kill.outcome}\n")
            sys.stdout.flush()
    world.close()
    assert all(kill.outcome == TO_THE_BIT for kill in table)
