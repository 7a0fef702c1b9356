"""The class of every row, for what draws or counts the rows of a source by class."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from distill_mtl.data.reader import read_labels
from distill_mtl.data.source import Source
from distill_mtl.errors import RecipeError
from distill_mtl.tasks.base import TaskKind


def class_task(source: Source, kinds: Mapping[str, TaskKind], key: str, mend: str) -> str:
    """The one task for which the source's rows have a class per picture.

    Args:
        source: whose rows are told apart.
        kinds: every task of the recipe.
        key: of the source's section that needs the classes, for the message.
        mend: what to do where there is no such task, for the message.

    Raises:
        RecipeError: it has no such task, or several.
    """
    tasks = [task for task in source.labels if kinds[task].exclusive and not kinds[task].dense]
    if len(tasks) != 1:
        found = ", ".join(tasks) or "none"
        raise RecipeError(
            f"data.{source.name}.{key}: needs labels of exactly one task with a class per picture, "
            f"found {found}. {mend}"
        )
    return tasks[0]


def read_classes(source: Source, rows: NDArray[np.int64], task: str, kind: TaskKind) -> NDArray[np.int64]:
    """int64 [N]: the class of each of the rows [N].

    Raises:
        ShardError: a label cannot be read.
    """
    return np.array([int(label) for label in read_labels(source, rows.tolist(), task, kind)], np.int64)
