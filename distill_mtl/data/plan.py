"""Which rows stand in the global batch of each training step, as a pure function of the step."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from distill_mtl.data.order import ClassBalanced, Drawn, Positions, Shuffled
from distill_mtl.data.picks import Picks
from distill_mtl.data.quota import Quota
from distill_mtl.data.reader import read_labels
from distill_mtl.data.source import Source
from distill_mtl.errors import RecipeError
from distill_mtl.tasks.base import TaskKind


class Plan:
    """Which rows stand in the global batch of each step.

    Args:
        orders: per source, position -> (epoch, row).
        quota: rows per source and step.
    """

    def __init__(self, orders: Sequence[Callable[[Positions], Drawn]], quota: Quota) -> None:
        self._orders, self._quota = orders, quota

    def __call__(self, step: int) -> Picks:
        """The rows of step `step`, source after source."""
        first, end = self._quota.before(step), self._quota.before(step + 1)
        drawn = [
            order(np.arange(start, stop)) for order, start, stop in zip(self._orders, first, end, strict=True)
        ]
        return Picks(
            source=np.repeat(np.arange(len(drawn)), end - first),
            epoch=np.concatenate([epochs for epochs, _ in drawn]),
            row=np.concatenate([rows for _, rows in drawn]),
        )


def source_order(seed: int, source: Source, kinds: Mapping[str, TaskKind]) -> Shuffled | ClassBalanced:
    """The order of a source's training rows, shuffled or with every class equally often.

    Raises:
        RecipeError: the source wants class_balance and has not exactly one class label.
        ShardError: a label cannot be read; class_balance reads all of them once.
    """
    rows = source.sets["train"]
    if not source.section.class_balance:
        return Shuffled(seed, source.name, rows)
    tasks = [task for task in source.labels if not kinds[task].dense]
    if len(tasks) != 1:
        found = ", ".join(tasks) or "none"
        raise RecipeError(
            f"data.{source.name}.class_balance: needs labels of exactly one task with a class per picture, "
            f"found {found}."
        )
    labels = read_labels(source, rows.tolist(), tasks[0], kinds[tasks[0]])
    return ClassBalanced(seed, source.name, rows, np.array([int(label) for label in labels]))
