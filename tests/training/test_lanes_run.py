"""A run in windows of shards whose processes are killed, and that goes on with more or fewer of them: the same run."""

import json
import os
import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import forked
import pytest
import quickstart
import toy_world
import yaml

from distill_mtl.data.batch import Batch
from distill_mtl.training.step import StepReport, Trainer

SHARDS = 8
LATEST, MOST = 0.4, 3  # seconds, and steps, after the beginning of a step in which a process is killed
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")


class Kill(NamedTuple):
    """When a process kills itself.

    Attributes:
        step: that it is at.
        after: seconds from its beginning on, by rank.
    """

    step: int
    after: Mapping[int, float]


def watch(folder: Path, kill: Kill | None) -> None:
    """Let a process note the keys of each step before it takes it, and end as one that is killed."""
    rank, take = int(os.environ.get("RANK", 0)), Trainer.step
    folder.mkdir(exist_ok=True)

    def step(trainer: Trainer, number: int, batches: Sequence[Batch], **options: object) -> StepReport:
        keys = [key for batch in batches for key in batch.keys]
        with (folder / f"{rank}.jsonl").open("a") as file:
            file.write(json.dumps([number, keys]) + "\n")
        if kill is not None and number == kill.step:
            threading.Timer(kill.after[rank], os.kill, (os.getpid(), signal.SIGKILL)).start()
        if kill is not None and number == kill.step + MOST:
            os.kill(os.getpid(), signal.SIGKILL)
        return take(trainer, number, batches, **options)

    Trainer.step = step


class World:
    """The toy world with its training rows in shards of five, trained in lives of some processes each."""

    def __init__(self, folder: Path, steps: int, order: str) -> None:
        folder.mkdir()
        self.recipe, self.out, self._logs = toy_world.build(folder), folder / "run", folder / "logs"
        self._logs.mkdir()
        changed = yaml.safe_load(self.recipe.read_text())
        for task in ("hue", "shape"):
            rows = toy_world.read_shard(folder / f"{task}-train.tar")
            for shard in range(SHARDS):
                toy_world.write_rows(folder / f"{task}-train-{shard}.tar", rows[shard::SHARDS])
            data = changed["tasks"][task]["data"]
            data |= {
                "shards": str(folder / f"{task}-train-{{0..{SHARDS - 1}}}.tar"),
                "order": order,
                "window": 2,
            }
        changed["student"] |= {"args": {"norm": "group"}}
        changed["optimizer"] = {"name": "sgd", "lr": 0.05}
        changed["training"] |= {"steps": steps, "log_every": 1, "stream": {"lanes": 4}, "workers": 0}
        self.recipe.write_text(yaml.safe_dump(changed))
        self.lives = 0

    def live(self, world: int, kill: Kill | None = None) -> list[forked.Ended]:
        """Train with so many processes from the last checkpoint on, to the end or until they are killed."""
        begun = ["--resume"] if (self.out / "recipe.resolved.yaml").exists() else ["--overwrite"]
        prepare = partial(watch, self._logs / f"{self.lives:03d}", kill)
        self.lives += 1
        arguments = ("distill", self.recipe, "--out", self.out, *begun)
        if world == 1:
            return [forked.run(*arguments, prepare=prepare, seconds=200.0)]
        return forked.run_together(world, *arguments, prepare=prepare)

    @property
    def checkpoint(self) -> int:
        """The step that the run goes on from."""
        return max((int(path.name[-8:]) for path in self.out.glob("checkpoints/step_*[0-9]")), default=0)

    def rows(self) -> Iterator[dict[int, Counter[str]]]:
        """The keys that all processes of a life had in each step."""
        for life in sorted(self._logs.iterdir()):
            steps: dict[int, Counter[str]] = {}
            for log in life.iterdir():
                for line in log.read_text().splitlines():
                    number, keys = json.loads(line)
                    steps.setdefault(number, Counter()).update(keys)
            yield steps


def as_one_run(world: World, reference: World, steps: int) -> None:
    """The lives of one world have the rows, the curve and the weights of the uninterrupted run of another."""
    (expected,) = reference.rows()
    assert sorted(expected) == list(range(steps))
    last: dict[int, Counter[str]] = {}
    for life in world.rows():
        last |= life
        for number, keys in life.items():
            assert keys <= expected[number], (number, keys - expected[number])
    assert last == expected, "no row lost or doubled"
    ours, theirs = quickstart.metrics(world.out), quickstart.metrics(reference.out)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        for task, terms in other["tasks"].items():
            assert mine["tasks"][task] == pytest.approx(terms, rel=1e-5, abs=1e-5), (other["step"], task)
    weights = quickstart.weights(world.out)
    for name, weight in quickstart.weights(reference.out).items():
        assert weights[name] == pytest.approx(weight, rel=1e-4, abs=1e-5), name


def uninterrupted(folder: Path, steps: int, order: str = "windows") -> World:
    """A run of one process."""
    reference = World(folder, steps, order)
    (ended,) = reference.live(1)
    assert ended.status == 0, ended.text
    return reference


def killed_and_gone_on(
    world: World, kills: Sequence[tuple[int, int]], last: int, generator: random.Random
) -> None:
    """Kill lives of so many processes so many steps after their beginning, and let the last one come to the end."""
    for number, ahead in kills:
        after = {rank: generator.random() * LATEST for rank in range(number)}
        ended = world.live(number, Kill(world.checkpoint + ahead, after))
        assert any(each.status == -signal.SIGKILL for each in ended), [each.text for each in ended]
    for each in world.live(last):
        assert each.status == 0, each.text


def test_two_processes_that_are_killed_go_on_as_four(tmp_path: Path) -> None:
    reference, world = uninterrupted(tmp_path / "one", 9), World(tmp_path / "many", 9, "windows")
    killed_and_gone_on(world, [(2, 4)], 4, random.Random(0))
    as_one_run(world, reference, 9)


@pytest.mark.slow
@pytest.mark.parametrize(("order", "number", "steps"), [("windows", 30, 280), ("rows", 8, 80)])
def test_kills_and_joins_at_random_are_one_run(tmp_path: Path, order: str, number: int, steps: int) -> None:
    reference, generator = uninterrupted(tmp_path / "one", steps, order), random.Random(1)
    world = World(tmp_path / "many", steps, order)
    kills = [(generator.choice((1, 2, 4)), generator.randrange(7)) for _ in range(number)]
    killed_and_gone_on(world, kills, 2, generator)
    as_one_run(world, reference, steps)
