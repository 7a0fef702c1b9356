"""A batch of training or evaluation: rows of several data sets, mixed.

`BatchRows` are the rows by number: the plan decides them, the stream cuts them up, and the reader reads them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FRESH = -1  # a view that was drawn for one epoch and has no number


def _none() -> Tensor:
    """Of a batch that no reader made."""
    return torch.zeros(0, dtype=torch.int64)


@dataclass(frozen=True)
class ProcessShare:
    """One process among several that share work.

    Attributes:
        rank: of this process, from 0.
        world: number of processes.
    """

    rank: int = 0
    world: int = 1


ALONE = ProcessShare()
"""The share of a process that has all the work."""


@dataclass(frozen=True)
class Batch:
    """B rows in one canonical image size, not normalised for any network yet.

    Attributes:
        images: uint8 [B, 3, H, W] as read; float [B, 3, H, W] in [0, 1] after `to`.
        labels: per task, first dimension B. Rows without a label hold a filler that nothing may read.
        labelled: per task, bool [B]: which rows really have a label. Stays on the host: it decides which
            rows are computed, and a decision must not wait for a device.
        keys: the identity of every row, "source/shard/key".
        source: int64 [B], index of the data set that each row comes from.
        row: int64 [B], which row of its source each one is: after a corrupt one was replaced, the one that
            took its place. Stays on the host, as `view` does: rows are looked up there.
        view: int64 [B], the number of the view it is seen under, 0 for the plain one; FRESH where views have
            no numbers.
        groups: what each row shares with others (a scene, a patient), or its own key; empty in training.
        color: float [B, 3], factors of brightness, contrast and saturation for the student's eyes alone;
            None where nothing is to change.
        skipped: keys of rows that could not be decoded and were replaced or left out.
        open: per task, of those with data sets that do not tell of all classes, bool [B, classes]: the classes that the
            label of a row says nothing of, if it has one. Stays on the host, as `labelled` does.
    """

    images: Tensor
    labels: dict[str, Tensor]
    labelled: dict[str, Tensor]
    keys: list[str]
    source: Tensor
    row: Tensor = field(default_factory=_none)
    view: Tensor = field(default_factory=_none)
    groups: list[str] = field(default_factory=list)
    color: Tensor | None = None
    skipped: list[str] = field(default_factory=list)
    open: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    def left_open(self, task: str, classes: Sequence[int] | None) -> Tensor:
        """bool [B]: which labels of a task say nothing of one of these classes; None: of one of all."""
        if task not in self.open:
            return torch.zeros(len(self), dtype=torch.bool)
        unsaid = self.open[task] if classes is None else self.open[task][:, list(classes)]
        return unsaid.any(1)

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on `device`, images as float in [0, 1]."""
        images = self.images.to(device, non_blocking=True)
        if images.dtype == torch.uint8:
            images = images.float().div_(255)
        return replace(
            self,
            images=images,
            labels={task: label.to(device, non_blocking=True) for task, label in self.labels.items()},
            color=None if self.color is None else self.color.to(device, non_blocking=True),
        )

    def only(self, rows: Tensor) -> "Batch":
        """Some rows of a plain batch, by their positions in it, which are on the host."""
        return replace(
            self,
            images=self.images[rows],
            labels={task: label[rows] for task, label in self.labels.items()},
            labelled={task: label[rows] for task, label in self.labelled.items()},
            keys=[self.keys[row] for row in rows.tolist()],
            source=self.source[rows],
            row=self.row[rows],
            view=self.view[rows],
            groups=[self.groups[row] for row in rows.tolist()],
            open={task: unsaid[rows] for task, unsaid in self.open.items()},
        )

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory, from which a GPU copies without waiting; DataLoader calls it."""
        return replace(
            self,
            images=self.images.pin_memory(),
            labels={task: label.pin_memory() for task, label in self.labels.items()},
            color=None if self.color is None else self.color.pin_memory(),
        )


Integers = NDArray[np.int64]


@dataclass(frozen=True)
class BatchRows:
    """B rows, source after source.

    Attributes:
        source: int64 [B], which source, ascending.
        epoch: int64 [B], how often the row came before, which decides its view.
        row: int64 [B], which row of the source.
    """

    source: Integers
    epoch: Integers
    row: Integers

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, part: slice) -> "BatchRows":
        return BatchRows(self.source[part], self.epoch[part], self.row[part])

    def by_source(self) -> Iterator[tuple[int, slice]]:
        """(source, where its rows stand) for every source that has some."""
        start = 0
        for number, count in enumerate(np.bincount(self.source).tolist()):
            if count:
                yield number, slice(start, start + count)
            start += count
