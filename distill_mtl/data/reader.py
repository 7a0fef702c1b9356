"""Rows to batches: reads, decodes and frames the rows that the stream or an evaluation asks for.

A reader holds no position and no random state. It travels to a DataLoader's workers, and gives the same
batch for the same rows wherever it runs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill_mtl.data.batch import Batch
from distill_mtl.data.decode import read_image
from distill_mtl.data.source import Source
from distill_mtl.data.splitmix import fold, text_hash, uniforms
from distill_mtl.data.views import DRAWS, Size, View, plain_view, training_view
from distill_mtl.errors import ShardError
from distill_mtl.tasks.base import TaskKind

Numbers = NDArray[np.int64]
_COLORS = 3


@dataclass(frozen=True)
class Picks:
    """The rows of a batch, by number.

    Attributes:
        source: int64 [B], which source.
        epoch: int64 [B], how often the row came before, which decides its view.
        row: int64 [B], which row of the source.
    """

    source: Numbers
    epoch: Numbers
    row: Numbers

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, part: slice) -> "Picks":
        return Picks(self.source[part], self.epoch[part], self.row[part])


@dataclass(frozen=True)
class _Row:
    """A row as the batch takes it: image uint8 [3, H, W], and the labels it really has."""

    key: str
    image: Tensor
    labels: dict[str, Tensor]


class Reader:
    """Makes batches of rows of several sources.

    Args:
        sources: in the order of their numbers.
        kinds: every task of the recipe.
        size: height and width of the batch's images.
        seed: of the recipe, for the views.

    Raises:
        ShardError: the first label of a task cannot be read.
    """

    def __init__(
        self, sources: Sequence[Source], kinds: Mapping[str, TaskKind], size: Size, seed: int
    ) -> None:
        self.sources, self.kinds, self.size = sources, kinds, size
        self._names = np.array([text_hash(source.name) for source in sources], np.uint64)
        self._strengths = np.array([source.section.augment.color for source in sources], np.float32)
        self._seed = seed
        self._fillers = {task: self._filler(task) for task in kinds}

    def training(self, picks: Picks) -> Batch:
        """The rows under their training views, with every label they have.

        Raises:
            ShardError: a label or, where the source says stop, a picture cannot be decoded.
        """
        keys = fold(self._seed, "views", self._names[picks.source], picks.epoch, picks.row)
        chance = uniforms(keys, DRAWS + _COLORS)
        skipped: list[str] = []
        rows = [
            self._row_or_next(self.sources[number], row, mine, skipped)
            for number, row, mine in zip(
                picks.source.tolist(), picks.row.tolist(), chance[:, :DRAWS].tolist(), strict=True
            )
        ]
        color = self._color(picks.source, chance[:, DRAWS:])
        return self._batch(rows, self.kinds, picks.source, skipped=skipped, color=color)

    def plain(self, picks: Picks, task: str) -> Batch:
        """The rows that have a label of `task`, under their plain views, with that label and their groups.

        Rows whose picture cannot be decoded are left out where their source says skip.

        Raises:
            ShardError: as `training`.
        """
        rows, places, groups, skipped = [], [], [], []
        for place, (number, row) in enumerate(zip(picks.source.tolist(), picks.row.tolist(), strict=True)):
            source = self.sources[number]
            found = self._row(source, row, (task,), None)
            if found is None:
                skipped.append(source.key(row))
            elif task in found.labels:
                rows.append(found)
                places.append(place)
                groups.append(source.group(row))
        return self._batch(rows, (task,), picks.source[places], skipped=skipped, groups=groups)

    def _row_or_next(self, source: Source, row: int, chance: Sequence[float], skipped: list[str]) -> _Row:
        """The row, or in place of one that cannot be decoded the next training row of its source."""
        for _ in range(len(source)):
            found = self._row(source, row, source.labels, chance)
            if found is not None:
                return found
            skipped.append(source.key(row))
            row = source.after(row)
        raise ShardError(f"data.{source.name}: not one picture can be decoded.")

    def _row(
        self, source: Source, row: int, tasks: Iterable[str], chance: Sequence[float] | None
    ) -> _Row | None:
        """One row under its training view, or without `chance` its plain one; None if it is to be skipped."""
        section = source.section
        try:
            picture = read_image(source.read(source.image, row))
        except ValueError as error:
            if section.corrupt == "skip":
                return None
            place = source.place(source.image, row)
            raise ShardError(f"{place}: {error}. `corrupt: skip` would replace such rows.") from None
        shape = (picture.shape[1], picture.shape[2])
        if chance is None:
            view = plain_view(shape, self.size, section.resize)
        else:
            augment = section.augment
            view = training_view(shape, self.size, section.resize, augment.crop, augment.flip, chance)
        labels = {}
        for task in tasks:
            label = self._label(source, row, task, shape, view)
            if self.kinds[task].has_label(label):
                labels[task] = label
        return _Row(source.key(row), view.image(picture, self.size), labels)

    def _label(self, source: Source, row: int, task: str, picture: Size, view: View) -> Tensor:
        column, kind = source.labels[task], self.kinds[task]
        label = read_label(source, row, task, kind)
        if not kind.dense:
            return label
        if label.shape[-2:] != picture:
            found = f"{label.shape[-1]}x{label.shape[-2]} pixels, its picture {picture[1]}x{picture[0]}"
            raise ShardError(f"{source.place(column, row)}: the label has {found}. They must be alike.")
        return view.map(label, self.size, kind.ignore_index)

    def _batch(
        self,
        rows: Sequence[_Row],
        tasks: Iterable[str],
        source: Numbers,
        *,
        skipped: list[str],
        color: Tensor | None = None,
        groups: Sequence[str] = (),
    ) -> Batch:
        images = torch.empty(len(rows), 3, *self.size, dtype=torch.uint8)
        for place, row in enumerate(rows):
            images[place] = row.image
        labels, labelled = {}, {}
        for task in tasks:
            have = [place for place, row in enumerate(rows) if task in row.labels]
            filler = self._fillers[task]
            labels[task] = filler.expand(len(rows), *filler.shape).clone()
            labelled[task] = torch.zeros(len(rows), dtype=torch.bool)
            if have:
                labels[task][have] = torch.stack([rows[place].labels[task] for place in have])
                labelled[task][have] = True
        keys = [row.key for row in rows]
        return Batch(images, labels, labelled, keys, torch.from_numpy(source), list(groups), color, skipped)

    def _color(self, source: Numbers, chance: NDArray[np.float64]) -> Tensor | None:
        if not self._strengths.any():
            return None
        factors = 1 + self._strengths[source, None] * (2 * chance - 1)
        return torch.from_numpy(factors.astype(np.float32))

    def _filler(self, task: str) -> Tensor:
        """What stands where a row has no label, in the type and shape of a real one."""
        kind = self.kinds[task]
        for source in self.sources:
            if task in source.labels:
                label = read_label(source, int(source.sets["train"][0]), task, kind)
                break
        else:
            label = torch.zeros(self.size if kind.dense else (), dtype=torch.int64)
        if kind.dense:
            return label.new_full((*label.shape[:-2], *self.size), kind.ignore_index)
        return torch.zeros_like(label)


def read_label(source: Source, row: int, task: str, kind: TaskKind) -> Tensor:
    """A label as it stands in the shard.

    Raises:
        ShardError: it makes no sense for the kind of task.
    """
    column = source.labels[task]
    try:
        return kind.read_label(source.read(column, row))
    except ValueError as error:
        raise ShardError(f"{source.place(column, row)}: {error}") from None
