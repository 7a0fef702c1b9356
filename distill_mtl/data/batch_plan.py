"""The rows of the global batch of each training step, as a pure function of the step."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from distill_mtl.data.batch import ALONE, BatchRows, ProcessShare
from distill_mtl.data.few_labels import class_task, labelled_share, read_classes
from distill_mtl.data.order import ClassBalanced, Drawn, Positions, Shuffled
from distill_mtl.data.quota import Alternating, Quota
from distill_mtl.data.source import Source, is_in_windows
from distill_mtl.data.windows import RowsByShard, Windows
from distill_mtl.tasks.base import TaskKind


@dataclass(frozen=True)
class Part:
    """Rows of a source that are drawn as a stream of their own.

    Attributes:
        share: of the source's rows in a batch, in (0, 1].
        order: position -> (epoch, row).
    """

    share: float
    order: Callable[[Positions], Drawn]


class Plan:
    """The rows of the global batch of each step.

    Args:
        parts: of each source.
        quota: rows per part and step, source after source.
        lanes: that the rows of each part are dealt to in turn; None: none of them is drawn in windows.

    Attributes:
        orders: of each part.
        sources: int64, of each part, the number of its source.
        quota, lanes: as given.
    """

    def __init__(
        self, parts: Sequence[Sequence[Part]], quota: Quota | Alternating, lanes: int | None = None
    ) -> None:
        self.orders = [part.order for of_source in parts for part in of_source]
        self.sources = np.repeat(np.arange(len(parts)), [len(of_source) for of_source in parts])
        self.quota, self.lanes = quota, lanes

    def slices(self, step: int, share: ProcessShare, micro_batches: int) -> Iterator[BatchRows]:
        """The rows of a process in each micro-batch of a step.

        The rows of a step stand source after source, so taking every n-th gives each slice the mix of the whole. With
        lanes a process has the rows of its own ones: some fewer or more of a source than the others, but always of the
        shards that it reads.
        """
        if self.lanes is None:
            picks, stride = self._rows(step), share.world * micro_batches
            firsts = range(share.rank * micro_batches, (share.rank + 1) * micro_batches)
        else:
            picks, stride, firsts = self._rows(step, share), micro_batches, range(micro_batches)
        for first in firsts:
            yield picks[first::stride]

    def fewest(self, world: int, steps: range) -> int:
        """With lanes, the number of rows that each of so many processes has at least in each of these steps."""
        counts = (self.quota.before(step + 1) - self.quota.before(step) for step in steps)
        return min(int((of_step // world).sum()) for of_step in counts)

    def _rows(self, step: int, share: ProcessShare = ALONE) -> BatchRows:
        """The rows of step `step`, source after source; with lanes those of one process."""
        spans = zip(self.quota.before(step).tolist(), self.quota.before(step + 1).tolist(), strict=True)
        asked = [np.arange(*span) for span in spans]
        if self.lanes is not None:
            asked = [each[each % self.lanes % share.world == share.rank] for each in asked]
        drawn = [order(positions) for order, positions in zip(self.orders, asked, strict=True)]
        return BatchRows(
            source=np.repeat(self.sources, list(map(len, asked))),
            epoch=np.concatenate([epochs for epochs, _ in drawn]),
            row=np.concatenate([rows for _, rows in drawn]),
        )


def source_parts(seed: int, source: Source, kinds: Mapping[str, TaskKind], lanes: int) -> list[Part]:
    """The parts of a source: all its training rows, or where some are limited to be a pool, those and the rest;
    none where it has no training rows.

    Args:
        seed: of the recipe.
        source: opened and limited.
        kinds: every task of the recipe.
        lanes: of the stream, for a source that is read in windows.

    Raises:
        RecipeError: the source wants class_balance and has not exactly one class label.
        ShardError: a label cannot be read; class_balance reads all of them once.
    """
    if not source.count("train"):
        return []
    shuffled = partial(_shuffled, seed, source, lanes)
    labelled = source.labelled_rows()
    if source.shown_count("train") == source.count("train"):
        return [Part(1.0, _balanced(seed, source.name, source, kinds) or shuffled(source.name, labelled))]
    share, name = labelled_share(source), f"{source.name}/labelled"
    parts = [Part(share, _balanced(seed, name, source, kinds) or shuffled(name, labelled))]
    if share < 1:
        parts.append(Part(1 - share, shuffled(f"{source.name}/pool", source.pool_rows())))
    return parts


def _shuffled(seed: int, source: Source, lanes: int, name: str, rows: RowsByShard) -> Windows | Shuffled:
    """The order of some rows of a source: in windows of its shards, or all of them together."""
    if is_in_windows(source.section):
        return Windows(seed, name, rows, window=source.section.window, lanes=lanes)
    shards = np.flatnonzero(rows.counts).tolist()
    return Shuffled(seed, name, np.concatenate([rows.of(shard) for shard in shards]))


def _balanced(seed: int, name: str, source: Source, kinds: Mapping[str, TaskKind]) -> ClassBalanced | None:
    """The order of the labelled rows with every class equally often, if the source wants that."""
    if not source.section.class_balance:
        return None
    rows, task = source.shown_rows("train"), class_task(source, kinds, "class_balance", "Remove it.")
    return ClassBalanced(seed, name, rows, read_classes(source, rows, task, kinds[task]))
