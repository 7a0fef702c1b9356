"""Rows to batches: reads, decodes and frames the rows that the stream or an evaluation asks for.

A reader holds no position and no random state. It travels to a DataLoader's workers, and gives the same
batch for the same rows wherever it runs. Per row it does little but decode: what can be looked up for
many rows at once is.
"""

import copy
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill_mtl.data.augmentation import ChooseView, TrainingViews
from distill_mtl.data.batch import FRESH, Batch, BatchRows, Integers
from distill_mtl.data.decode import read_image
from distill_mtl.data.source import Source
from distill_mtl.errors import ShardError
from distill_mtl.geometry.views import DRAWS, Size, View, plain_view
from distill_mtl.splitmix import fold, uniforms
from distill_mtl.tasks.base import TaskKind

_COLORS = 3
_TOGETHER = 16  # pictures decoded before they are framed
_MOST_KNOWN = 4096  # enough for the classes of most tasks; a score per row would never come again


class Reader:
    """Makes batches of rows of several sources.

    Args:
        sources: in the order of their numbers.
        kinds: every task of the recipe.
        size: height and width of the batch's images.
        seed: of the recipe, for the colours.
        views: which view each training row gets.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        kinds: Mapping[str, TaskKind],
        size: Size,
        seed: int,
        views: TrainingViews,
    ) -> None:
        self.sources, self.kinds, self.size = sources, kinds, size
        self.views = views
        self._color_keys = np.concatenate([fold(seed, "views", source.name) for source in sources])
        self._strengths = np.array([source.section.augment.color for source in sources])
        self._known: dict[str, dict[bytes, Tensor]] = {task: {} for task in kinds}
        self._fillers = {task: kind.filler(size) for task, kind in kinds.items()}

    def without_labels(self) -> "Reader":
        """The same rows and views with no task's labels, which carries no kind of task when it travels."""
        reader = copy.copy(self)
        reader.kinds, reader._known, reader._fillers = {}, {}, {}
        return reader

    def training(self, picks: BatchRows) -> Batch:
        """The rows under their training views, with every label they have.

        Raises:
            ShardError: a label or, where the source says stop, a picture cannot be decoded.
        """
        turns = self.views.turns(picks.epoch)
        draft = _Draft()
        for number, mine in picks.by_source():
            rows = picks.row[mine]
            framed = self._pictures(draft, number, rows, self.views.choose(number, rows, turns[mine]))
            self._labels(draft, number, framed, self.kinds)
        views = np.full_like(turns, FRESH) if self.views.count is None else turns
        return draft.batch(self.size, self._fillers, views, self._color(picks))

    def plain(self, picks: BatchRows, task: str | None) -> Batch:
        """The rows under their plain views, with their label of `task`, if one is named, and their groups.

        Left out are rows without a label after all (a mask without a valid pixel), and where their source
        says skip, rows whose picture cannot be decoded.

        Raises:
            ShardError: as `training`.
        """
        draft, tasks = _Draft(), () if task is None else (task,)
        for number, mine in picks.by_source():
            framed = self._pictures(draft, number, picks.row[mine], None)
            self._labels(draft, number, framed, tasks)
            draft.groups += [self.sources[number].group(row) for row, _, _ in framed]
        plain = np.zeros(len(draft.keys), np.int64)
        batch = draft.batch(self.size, {name: self._fillers[name] for name in tasks}, plain, None)
        if task is None or batch.labelled[task].all():
            return batch
        return batch.only(batch.labelled[task].nonzero().flatten())

    def every_view(self, block: tuple[int, Integers]) -> "EveryView":
        """Rows of one source, each under all its views, for writing the target cache.

        Args:
            block: number of the source, and its rows.

        Raises:
            ShardError: as `training`; a picture that is to be skipped is black, its boxes are empty.
        """
        number, rows = block
        count = self.views.count
        assert count is not None, "fresh views have no end"
        choose = self.views.choose(number, np.repeat(rows, count), np.tile(np.arange(count), len(rows)))
        draft, source, views = _Draft(), self.sources[number], list[View]()
        for place, (row, picture) in enumerate(self._decoded(draft, source, rows)):
            for turn in range(count):
                if picture is None:
                    views.append(View(0, 0, 0, 0))
                    draft.images.append(torch.zeros(3, *self.size, dtype=torch.uint8))
                else:
                    views.append(choose(place * count + turn, row, (picture.shape[1], picture.shape[2])))
                    draft.images.append(views[-1].image(picture, self.size))
        framed = np.array(views, np.int32).reshape(len(rows), count, 5)
        return EveryView(
            draft.pixels(self.size),
            torch.from_numpy(framed[..., :4].copy()),
            torch.from_numpy(framed[..., 4].astype(np.uint8)),
            draft.skipped,
        )

    def one_by_one(self, picks: BatchRows) -> Iterator[tuple[str, BatchRows]]:
        """Where each row's picture stands, and the row alone."""
        for place, (number, row) in enumerate(zip(picks.source.tolist(), picks.row.tolist(), strict=True)):
            source = self.sources[number]
            yield source.place(source.image, row), picks[place : place + 1]

    def one_view_by_one(self, block: tuple[int, Integers]) -> Iterator[tuple[str, tuple[int, Integers]]]:
        """As `one_by_one`, of a block for `every_view`."""
        number, rows = block
        source = self.sources[number]
        for place, row in enumerate(rows.tolist()):
            yield source.place(source.image, row), (number, rows[place : place + 1])

    def _color(self, picks: BatchRows) -> Tensor | None:
        """float32 [B, 3], fresh each epoch whatever the view: colours are the student's alone."""
        if not self._strengths.any():
            return None
        keys = fold(self._color_keys[picks.source], picks.epoch, picks.row)
        chance = uniforms(keys, DRAWS + _COLORS)[:, DRAWS:]
        factors = 1 + self._strengths[picks.source, None] * (2 * chance - 1)
        return torch.from_numpy(factors.astype(np.float32))

    def _pictures(
        self, draft: "_Draft", number: int, rows: Integers, choose: ChooseView | None
    ) -> list["_Framed"]:
        """Put the pictures of one source's rows into the batch.

        With `choose`, rows whose picture cannot be decoded are replaced; without it views are plain and such
        rows left out.
        """
        source = self.sources[number]
        framed: list[_Framed] = []
        for place, (row, picture) in enumerate(self._decoded(draft, source, rows)):
            if picture is None and choose is None:
                continue
            if picture is None:
                row, picture = self._next_picture(draft, source, row)
            _, height, width = picture.shape
            size = height, width
            view = choose(place, row, size) if choose else plain_view(size, self.size, source.section.resize)
            draft.images.append(view.image(picture, self.size))
            framed.append(_Framed(row, size, view))
        draft.rows += [row for row, _, _ in framed]
        draft.keys += source.keys([row for row, _, _ in framed])
        draft.sources += [number] * len(framed)
        return framed

    def _decoded(
        self, draft: "_Draft", source: Source, rows: Integers
    ) -> Iterator[tuple[int, Tensor | None]]:
        """Each row and its picture, None for one that is to be skipped.

        Several are decoded before the first is framed: turn by turn, decoder and resizing would push each
        other out of the CPU's caches, a seventh of the time for small pictures. All at once would take much
        memory for large ones.
        """
        payloads = source.each_payload(source.image, rows)
        for first in range(0, len(rows), _TOGETHER):
            block = rows[first : first + _TOGETHER].tolist()
            read = zip(block, list(islice(payloads, len(block))), strict=True)
            yield from [(row, self._picture(draft, source, row, payload)) for row, payload in read]

    def _picture(self, draft: "_Draft", source: Source, row: int, payload: bytes) -> Tensor | None:
        """uint8 [3, h, w], or None for a picture that cannot be decoded and is to be skipped."""
        try:
            return read_image(payload)
        except ValueError as error:
            if source.section.corrupt == "stop":
                place = source.place(source.image, row)
                raise ShardError(f"{place}: {error}. `corrupt: skip` would replace such rows.") from None
        draft.skipped += source.keys([row])
        return None

    def _next_picture(self, draft: "_Draft", source: Source, row: int) -> tuple[int, Tensor]:
        """The next training row that can be decoded, and its picture."""
        for _ in range(len(source)):
            row = source.after(row)
            payload = source.payloads(source.image, np.array([row]))[0]
            picture = self._picture(draft, source, row, payload)
            if picture is not None:
                return row, picture
        raise ShardError(f"data.{source.name}: not one picture can be decoded.")

    def _labels(
        self, draft: "_Draft", number: int, framed: Sequence["_Framed"], tasks: Iterable[str]
    ) -> None:
        """Put the labels of the rows just added into the batch, dense ones under the picture's view."""
        source = self.sources[number]
        numbers = np.array([row for row, _, _ in framed], np.int64)
        shown = np.flatnonzero(source.are_shown(numbers)).tolist()
        for task in tasks:
            kind, places = self.kinds[task], shown if task in source.labels else []
            labels, labelled = [self._fillers[task]] * len(framed), [False] * len(framed)
            rows = [framed[place].row for place in places]
            read = read_labels(source, rows, task, kind, self._known[task]) if rows else []
            for place, label in zip(places, read, strict=True):
                label = self._seen(source, task, label, framed[place])
                if kind.has_label(label):
                    labels[place], labelled[place] = label, True
            draft.labels[task] += labels
            draft.labelled[task] += labelled
            if kind.knows:
                known = kind.knows.get(source.name, range(len(kind.classes)))
                unsaid = np.ones(len(kind.classes), np.bool_)
                unsaid[list(known)] = False
                draft.open[task] += [
                    unsaid & (is_labelled and kind.leaves_open(label))
                    for label, is_labelled in zip(labels, labelled, strict=True)
                ]

    def _seen(self, source: Source, task: str, label: Tensor, framed: "_Framed") -> Tensor:
        """A label under the view of its picture."""
        kind = self.kinds[task]
        try:
            kind.check_size(label, framed.picture)
        except ValueError as error:
            place = source.place(source.labels[task], framed.row)
            raise ShardError(f"{place}: {error}") from None
        label = kind.transform_label(label, framed.view, framed.picture, self.size)
        if not kind.knows:
            return label
        try:
            return kind.within(label, kind.knows.get(source.name, tuple(range(len(kind.classes)))))
        except ValueError as error:
            raise ShardError(f"{source.place(source.labels[task], framed.row)}: {error}") from None


class EveryView(NamedTuple):
    """R rows of one source under their V views.

    Attributes:
        images: uint8 [R * V, 3, H, W], the views of a row one after the other.
        boxes: int32 [R, V, 4], top, left, height and width of each view in its picture.
        flips: uint8 [R, V], 1 where it is mirrored.
        skipped: keys of rows that could not be decoded.
    """

    images: Tensor
    boxes: Tensor
    flips: Tensor
    skipped: list[str]


class _Framed(NamedTuple):
    """A row whose picture is in the batch: its number, its picture's height and width, and its view."""

    row: int
    picture: Size
    view: View


class _Draft:
    """A batch in the making."""

    def __init__(self) -> None:
        self.images: list[Tensor] = []
        self.keys: list[str] = []
        self.sources: list[int] = []
        self.rows: list[int] = []
        self.labels: dict[str, list[Tensor]] = defaultdict(list)  # of every row, the filler where it has none
        self.labelled: dict[str, list[bool]] = defaultdict(list)
        self.open: dict[str, list[NDArray[np.bool_]]] = defaultdict(list)
        self.groups: list[str] = []
        self.skipped: list[str] = []

    def batch(
        self, size: Size, fillers: Mapping[str, Tensor], views: Integers, color: Tensor | None
    ) -> Batch:
        """The batch of images of `size`, with labels of the tasks that have fillers."""
        labels = {
            task: torch.stack(rows) if (rows := self.labels[task]) else filler.new_empty(0, *filler.shape)
            for task, filler in fillers.items()
        }
        # Through NumPy: torch.tensor takes six times as long for a list.
        labelled = {task: torch.from_numpy(np.array(self.labelled[task], np.bool_)) for task in fillers}
        return Batch(
            images=self.pixels(size),
            labels=labels,
            labelled=labelled,
            keys=self.keys,
            source=torch.from_numpy(np.array(self.sources, np.int64)),
            row=torch.from_numpy(np.array(self.rows, np.int64)),
            view=torch.from_numpy(views),
            groups=self.groups,
            color=color,
            skipped=self.skipped,
            open={task: torch.from_numpy(np.stack(rows)) for task, rows in self.open.items() if rows},
        )

    def pixels(self, size: Size) -> Tensor:
        """uint8 [B, 3, H, W], the images of `size`."""
        # Decoders write pixel by pixel, and channels-last networks read so: kept, the copy is a plain one.
        rows = [image.permute(1, 2, 0) for image in self.images] or [
            torch.empty(0, size[1], 3, dtype=torch.uint8)
        ]
        return torch.cat(rows).view(-1, *size, 3).permute(0, 3, 1, 2)  # half the time of torch.stack


def read_labels(
    source: Source, rows: Sequence[int], task: str, kind: TaskKind, known: dict[bytes, Tensor] | None = None
) -> list[Tensor]:
    """Labels as they stand in the shards; rows whose labels are alike may share one tensor.

    Args:
        source: labelled for the task.
        rows: of the source.
        task: of the recipe.
        kind: of the task.
        known: labels read before, by their bytes; this adds to it.

    Raises:
        ShardError: a label is invalid for the kind of task.
    """
    column, labels = source.labels[task], []
    known = {} if known is None else known
    for row, payload in zip(rows, source.payloads(column, np.array(rows, np.int64)), strict=True):
        label = known.get(payload)
        if label is None:
            try:
                label = kind.read_label(payload)
            except ValueError as error:
                raise ShardError(f"{source.place(column, row)}: {error}") from None
            if len(known) < _MOST_KNOWN and not label.ndim:
                known[payload] = label
        labels.append(label)
    return labels
