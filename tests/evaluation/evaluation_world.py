"""A small world to evaluate in: rows held in memory and tiny networks."""

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from typing import Any

import torch
from torch import Tensor, nn

from distill_mtl.data.batch import ALONE, Batch, ProcessShare
from distill_mtl.data.source import RowMembers
from distill_mtl.evaluation import Processes
from distill_mtl.teachers.teacher import TeacherOutput

CLASSES = ("a", "b", "c")


class ListedRows:
    """Rows in memory, one set per task and split, read the way evaluation reads shards."""

    def __init__(self, rows: dict[tuple[str, str], Batch], hashed: tuple[str, ...] = ()) -> None:
        self.rows = rows
        self.hashed_tasks = hashed
        self.carried: dict[str, dict[str, bytes]] = {}

    @property
    def endings(self) -> set[str]:
        """Of what rows carry, by key; nothing here."""
        return {"group"} | {ending for members in self.carried.values() for ending in members}

    def members(self, task: str, split: str, members: Collection[str]) -> Iterator[RowMembers]:
        batch = self.rows[task, split]
        for key, group in zip(batch.keys, batch.groups, strict=True):
            own = self.carried.get(key, {}) | {"group": group.encode()}
            there = {name: content for name, content in own.items() if name in members}
            yield RowMembers(key, key.rpartition("/")[2], key.partition("/")[0], there)

    def count(self, task: str, split: str) -> int:
        return len(self.rows[task, split])

    def hashed(self, task: str) -> bool:
        return task in self.hashed_tasks

    def unlabelled(self, task: str) -> list[str]:
        """Every other task's rows are a source of their own."""
        return sorted({other for other, _ in self.rows if other != task})

    def pictures(
        self,
        source: str,
        split: str,
        batch_size: int,
        *,
        share: ProcessShare = ALONE,
        limit: int | None = None,
    ) -> Iterator[Batch]:
        return self.labelled(source, split, batch_size, share=share, limit=limit)

    def labelled(
        self,
        task: str,
        split: str,
        batch_size: int,
        *,
        share: ProcessShare = ALONE,
        limit: int | None = None,
        only: Collection[str] | None = None,
    ) -> Iterator[Batch]:
        whole = self.rows[task, split]
        named = [row for row, key in enumerate(whole.keys) if only is None or key in only]
        mine = named[:limit][share.rank :: share.world]
        for first in range(0, len(mine), batch_size):
            yield pick(whole, mine[first : first + batch_size])


def pick(batch: Batch, rows: list[int]) -> Batch:
    return Batch(
        images=batch.images[rows],
        labels={task: label[rows] for task, label in batch.labels.items()},
        labelled={task: known[rows] for task, known in batch.labelled.items()},
        keys=[batch.keys[row] for row in rows],
        source=batch.source[rows],
        row=torch.tensor(rows, dtype=torch.long),
        view=torch.zeros(len(rows), dtype=torch.long),
        groups=[batch.groups[row] for row in rows],
    )


def make_rows(task: str, rows: int, *, dense: bool, seed: int = 0, rows_per_group: int = 1) -> Batch:
    """The class is the brightest channel, of every pixel where `dense`; one label in five is wrong."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (rows, 3, 8, 8), generator=generator, dtype=torch.uint8)
    truth = images.float().argmax(1) if dense else images.float().mean((2, 3)).argmax(1)
    wrong = torch.rand(truth.shape, generator=generator) < 0.2
    labels = torch.where(wrong, (truth + 1) % 3, truth)
    return Batch(
        images=images,
        labels={task: labels},
        labelled={task: torch.ones(rows, dtype=torch.bool)},
        keys=[f"{task}/000/{row:05d}" for row in range(rows)],
        source=torch.zeros(rows, dtype=torch.long),
        groups=[f"group{row // rows_per_group}" for row in range(rows)],
    )


class ToyTeacher(nn.Module):
    """Pixels to logits by one 1x1 convolution, pooled unless dense."""

    def __init__(self, *, dense: bool, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.dense = dense
        self.mix = nn.Conv2d(3, len(CLASSES), 1, bias=False)
        with torch.no_grad():
            self.mix.weight.copy_(torch.eye(3)[:, :, None, None])
            self.mix.weight.add_(0.15 * torch.randn(self.mix.weight.shape, generator=generator))
        self.calls = 0

    def forward(self, images: Tensor) -> TeacherOutput:
        self.calls += 1
        maps = self.mix(images)
        return TeacherOutput(maps if self.dense else maps.mean((2, 3)), {})


class ToyStudent(nn.Module):
    """One head per task, each a teacher's network of its own."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(
            {"word": ToyTeacher(dense=False, seed=seed), "part": ToyTeacher(dense=True, seed=seed)}
        )
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {task: self.dropout(head(images).logits) for task, head in self.heads.items()}


def as_processes(world: int, work: Callable[[Processes], Any]) -> list[Any]:
    """What `work` returns to each of `world` processes, here threads that meet whenever they gather."""
    meeting = Barrier(world)
    said: list[list[Any]] = [[] for _ in range(world)]

    def gather(rank: int, items: list[Any]) -> list[Any]:
        said[rank] = items
        meeting.wait(timeout=30)
        joined = [item for each in said for item in each]
        meeting.wait(timeout=30)
        return joined

    processes = [Processes(rank, world, gather=partial(gather, rank)) for rank in range(world)]
    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(work, processes))
