"""The rows of the global batch of each training step, as a pure function of the step."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distill_mtl.data.batch import BatchRows
from distill_mtl.data.few_labels import class_task, labelled_share, read_classes
from distill_mtl.data.order import ClassBalanced, Drawn, Positions, Shuffled
from distill_mtl.data.quota import Alternating, Quota
from distill_mtl.data.source import Source
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
    """

    def __init__(self, parts: Sequence[Sequence[Part]], quota: Quota | Alternating) -> None:
        self._orders = [part.order for of_source in parts for part in of_source]
        self._sources = np.repeat(np.arange(len(parts)), [len(of_source) for of_source in parts])
        self._quota = quota

    def __call__(self, step: int) -> BatchRows:
        """The rows of step `step`, source after source."""
        first, end = self._quota.before(step), self._quota.before(step + 1)
        drawn = [
            order(np.arange(start, stop)) for order, start, stop in zip(self._orders, first, end, strict=True)
        ]
        return BatchRows(
            source=np.repeat(self._sources, end - first),
            epoch=np.concatenate([epochs for epochs, _ in drawn]),
            row=np.concatenate([rows for _, rows in drawn]),
        )


def source_parts(seed: int, source: Source, kinds: Mapping[str, TaskKind]) -> list[Part]:
    """The parts of a source: all its training rows, or where some are limited to be a pool, those and the rest;
    none where it has no training rows.

    Raises:
        RecipeError: the source wants class_balance and has not exactly one class label.
        ShardError: a label cannot be read; class_balance reads all of them once.
    """
    rows, labelled = source.sets["train"], source.shown_rows("train")
    if not len(rows):
        return []
    if len(labelled) == len(rows):
        return [Part(1.0, _order(seed, source.name, source, rows, kinds))]
    share = labelled_share(source)
    parts = [Part(share, _order(seed, f"{source.name}/labelled", source, labelled, kinds))]
    if share < 1:
        pool = np.setdiff1d(rows, labelled, assume_unique=True)
        parts.append(Part(1 - share, Shuffled(seed, f"{source.name}/pool", pool)))
    return parts


def _order(
    seed: int, name: str, source: Source, rows: NDArray[np.int64], kinds: Mapping[str, TaskKind]
) -> Shuffled | ClassBalanced:
    """The order of labelled rows: shuffled, or with every class equally often."""
    if not source.section.class_balance:
        return Shuffled(seed, name, rows)
    task = class_task(source, kinds, "class_balance", "Remove it.")
    return ClassBalanced(seed, name, rows, read_classes(source, rows, task, kinds[task]))
