"""Few labels: which training rows of a source keep theirs under `data.SOURCE.limit`.

The other training rows stay in the stream as an unlabelled pool, for which only teachers give targets. Also the class
of every row, for what draws or counts the rows of a source by class.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from distill_mtl.data.reader import read_labels
from distill_mtl.data.source import Source
from distill_mtl.errors import RecipeError
from distill_mtl.splitmix import Hashes, draws, fold
from distill_mtl.tasks.base import TaskKind

# Left to themselves, 100 labelled rows of 4,000 would hardly ever meet a batch. Semi-supervised practice
# fixes their share: an eighth in FixMatch (arXiv:2001.07685), a quarter to a half in Mean Teacher
# (arXiv:1703.01780). A source has only a part of the batch here, and an eighth of a part is a row or two:
# MultiDigits with 100 labels a source (300 steps, one seed) lost 3.1, 4.2 and 11.7 points against the teachers
# with an eighth, 2.2, 2.9 and 9.3 with a quarter, 2.1, 2.9 and 9.7 with a half, 6.4, 7.5 and 9.5 without a pool.
LABELLED_SHARE = 0.25
_AT_ONCE = 1 << 20  # rows that are ranked together


def kept_rows(seed: int, source: Source, kinds: Mapping[str, TaskKind]) -> NDArray[np.int64]:
    """The training rows that keep their labels, ascending, of a source with a limit.

    A pure function of seed and source; the rows of a smaller limit are among those of a larger one.

    Raises:
        RecipeError: the limit is per class, and the source has not exactly one class label.
        ShardError: a label cannot be read; a limit per class reads all of them once.
    """
    limit, key = source.section.limit, fold(seed, source.name, "limit")
    assert limit is not None
    if limit.per_class is None:
        assert limit.rows is not None
        return np.sort(_first_ranked(key, source, limit.rows))
    ranked = _first_ranked(key, source, source.count("train"))
    task = _class_task(source, kinds)
    classes = read_classes(source, ranked, task, kinds[task])
    members = [ranked[classes == number][: limit.per_class] for number in np.unique(classes)]
    return np.sort(np.concatenate(members))


def _first_ranked(key: Hashes, source: Source, count: int) -> NDArray[np.int64]:
    """The first `count` training rows in the order of their hashes. Shard by shard, so that a source that is read so
    need not have all its rows at hand."""
    rows, hashes = np.zeros(0, np.int64), np.zeros(0, np.uint64)
    of_set, parts = source.training_rows(), list[tuple[NDArray[np.int64], Hashes]]()
    waiting = 0
    for shard in np.flatnonzero(of_set.counts).tolist():
        mine = of_set.of(shard)
        first = int(mine[0])
        parts.append((mine, draws(key, int(mine[-1]) + 1 - first, first)[0][mine - first]))
        waiting += len(mine)
        if waiting > max(count, _AT_ONCE):
            rows, hashes = _smallest([(rows, hashes), *parts], count)
            parts, waiting = [], 0
    return _smallest([(rows, hashes), *parts], count)[0]


def _smallest(
    parts: Sequence[tuple[NDArray[np.int64], Hashes]], count: int
) -> tuple[NDArray[np.int64], Hashes]:
    """The rows with the smallest hashes, and these; ties fall to the smaller row."""
    rows, hashes = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.lexsort((rows, hashes))[:count]
    return rows[order], hashes[order]


def labelled_share(source: Source) -> float:
    """Of the source's rows in a batch, the share that keeps its labels, in (0, 1]."""
    limit = source.section.limit
    if limit is None:
        return 1.0
    kept = source.shown_count("train") / source.count("train")
    if kept == 1:
        return 1.0
    return limit.share if limit.share is not None else max(LABELLED_SHARE, kept)


def small_classes(source: Source, kinds: Mapping[str, TaskKind]) -> dict[str, int]:
    """Classes with fewer training rows than the limit per class asks for, and how many they have."""
    limit = source.section.limit
    if limit is None or limit.per_class is None:
        return {}
    task = _class_task(source, kinds)
    classes = read_classes(source, source.shown_rows("train"), task, kinds[task])
    counts = np.bincount(classes, minlength=len(kinds[task].classes)).tolist()
    named = zip(kinds[task].classes, counts, strict=True)
    return {name: count for name, count in named if count < limit.per_class}


def _class_task(source: Source, kinds: Mapping[str, TaskKind]) -> str:
    return class_task(source, kinds, "limit.per_class", "Limit the number of `rows` instead.")


def class_task(source: Source, kinds: Mapping[str, TaskKind], key: str, remedy: str) -> str:
    """The one task for which the source's rows have a class per picture.

    Args:
        source: whose rows are told apart.
        kinds: every task of the recipe.
        key: of the source's section that needs the classes, for the message.
        remedy: what to do where there is no such task, for the message.

    Raises:
        RecipeError: it has no such task, or several.
    """
    tasks = [task for task in source.labels if kinds[task].exclusive and not kinds[task].dense]
    if len(tasks) != 1:
        found = ", ".join(tasks) or "none"
        raise RecipeError(
            f"data.{source.name}.{key}: needs labels of exactly one task with a class per picture, "
            f"found {found}. {remedy}"
        )
    return tasks[0]


def read_classes(source: Source, rows: NDArray[np.int64], task: str, kind: TaskKind) -> NDArray[np.int64]:
    """int64 [N]: the class of each of the rows [N].

    Raises:
        ShardError: a label cannot be read.
    """
    return np.array([int(label) for label in read_labels(source, rows.tolist(), task, kind)], np.int64)
