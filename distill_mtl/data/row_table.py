"""Where the members and the keys of a source's rows stand, and which set each row belongs to.

`HeldRows` has it at hand for every row. `RowsOnDemand` knows only how many rows each shard has, and opens the index of
a shard when one of its rows is asked for, so that its memory follows the shards that are read and not the source.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from distill_mtl.data.batch import Integers
from distill_mtl.data.index import ShardIndex
from distill_mtl.data.windows import RowsByShard
from distill_mtl.splits import SPLITS, Split

Homes = NDArray[np.int8]
"""int8 [N], positions in SPLITS."""
CutShard = Callable[[int, ShardIndex], Homes]
"""Number and index of a shard -> the set of each of its rows."""
_TRAIN = SPLITS.index("train")


class RowTable(ABC):
    """The rows of a source, numbered through all its shards.

    Args:
        lengths: int64 [S], rows of each shard.
        in_sets: int64 [S, sets], how many of them each set has.

    Attributes:
        lengths: int64 [S].
        firsts: int64 [S], the number of the first row of each shard.
    """

    def __init__(self, lengths: Integers, in_sets: Integers) -> None:
        self.lengths = lengths
        self.firsts = np.cumsum(self.lengths) - self.lengths
        self._in_sets = in_sets

    def __len__(self) -> int:
        return int(self.lengths.sum())

    def count(self, split: Split) -> int:
        """How many rows a set has."""
        return int(self._in_sets[:, SPLITS.index(split)].sum())

    def by_shard(self, split: Split) -> RowsByShard:
        """The rows of a set, shard by shard."""
        return RowsByShard(
            self._in_sets[:, SPLITS.index(split)], lambda shard: self.rows_of_shard(split, shard)
        )

    def rows(self, split: Split) -> Integers:
        """int64: the rows of a set, ascending."""
        of_set = self.by_shard(split)
        parts = [of_set.of(shard) for shard in np.flatnonzero(of_set.counts).tolist()]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def rows_of_shard(self, split: Split, shard: int) -> Integers:
        """int64: the rows of a set in a shard, ascending."""
        inside = np.flatnonzero(self._homes(shard) == SPLITS.index(split))
        return int(self.firsts[shard]) + inside

    def shards(self, rows: Integers) -> NDArray[np.integer]:
        """int [R]: the shard of each row."""
        return np.searchsorted(self.firsts, rows, side="right") - 1

    @abstractmethod
    def keys(self, rows: Integers) -> list[tuple[int, str]]:
        """Shard and key of each row."""

    @abstractmethod
    def index(self, shard: int) -> ShardIndex:
        """The index of a shard."""

    @abstractmethod
    def spans(self, member: str, rows: Integers) -> Iterable[tuple[int, int, int]]:
        """Shard, and offset and size in bytes of one member, of each row; the size is -1 where there is none."""

    @abstractmethod
    def are_training(self, rows: Integers) -> NDArray[np.bool_]:
        """bool [R]: which of the rows belong to the training set."""

    @abstractmethod
    def _homes(self, shard: int) -> Homes:
        """The set of each row of a shard."""


class HeldRows(RowTable):
    """The rows of a source whose indexes are all at hand.

    Args:
        indexes: of every shard.
        homes: the set of every row.
        members: those that are asked for.
    """

    def __init__(self, indexes: Sequence[ShardIndex], homes: Sequence[Homes], members: Iterable[str]) -> None:
        super().__init__(np.array([len(index) for index in indexes], np.int64), count_sets(homes))
        self._indexes, self._home = indexes, homes
        self._rows: dict[Split, Integers] = {}
        self._key_spans = np.concatenate([index.key_spans() for index in indexes])
        self._shard: NDArray[np.int32] = np.repeat(np.arange(len(indexes), dtype=np.int32), self.lengths)
        self._columns = {}
        for member in dict.fromkeys(members):
            columns = [member_column(index, member) for index in indexes]
            self._columns[member] = tuple(np.concatenate(part) for part in zip(*columns, strict=True))

    def rows(self, split: Split) -> Integers:
        if split not in self._rows:
            self._rows[split] = super().rows(split)
        return self._rows[split]

    def index(self, shard: int) -> ShardIndex:
        return self._indexes[shard]

    def shards(self, rows: Integers) -> NDArray[np.integer]:
        return self._shard[rows]

    def keys(self, rows: Integers) -> list[tuple[int, str]]:
        spans = zip(self._shard[rows].tolist(), self._key_spans[rows].tolist(), strict=True)
        return [(shard, self._indexes[shard].key(start, end)) for shard, (start, end) in spans]

    def spans(self, member: str, rows: Integers) -> Iterable[tuple[int, int, int]]:
        offsets, sizes = self._columns[member]
        columns = (self._shard[rows].tolist(), offsets[rows].tolist(), sizes[rows].tolist())
        return zip(*columns, strict=True)

    def are_training(self, rows: Integers) -> NDArray[np.bool_]:
        return self._training[rows]

    @cached_property
    def _training(self) -> NDArray[np.bool_]:
        return np.concatenate(self._home) == _TRAIN

    def _homes(self, shard: int) -> Homes:
        return self._home[shard]


@dataclass
class _Opened:
    """What is kept of the index of a shard of N rows, in as few bytes as hold it.

    Attributes:
        key_text: the keys without anything between them.
        key_ends: [N + 1], where each begins and the last ends.
        homes: the set of each row.
        columns: member -> offsets and sizes [N]; without those that no row has.
    """

    key_text: bytes
    key_ends: NDArray[np.integer]
    homes: Homes
    columns: dict[str, tuple[NDArray[np.integer], NDArray[np.integer]]] = field(default_factory=dict)


class RowsOnDemand(RowTable):
    """The rows of a source whose indexes are opened when they are needed.

    Args:
        load: number of a shard -> its index.
        lengths: int64 [S], rows of each shard.
        in_sets: int64 [S, sets], how many of them each set has.
        homes: number and index of a shard -> the set of each of its rows.
        members: those that are asked for.
        most: shards of which the places of all rows are kept; those go that were opened first, as windows do.
    """

    def __init__(
        self,
        load: Callable[[int], ShardIndex],
        lengths: Integers,
        in_sets: Integers,
        homes: CutShard,
        members: Iterable[str],
        most: int,
    ) -> None:
        super().__init__(lengths, in_sets)
        self._load, self._cut, self._members, self._most = load, homes, tuple(dict.fromkeys(members)), most
        self._opened: dict[int, _Opened] = {}
        self._whole: tuple[int, ShardIndex] | None = None

    def keys(self, rows: Integers) -> list[tuple[int, str]]:
        found = []
        for shard, opened, place in self._places(rows):
            start, end = opened.key_ends.item(place), opened.key_ends.item(place + 1)
            found.append((shard, opened.key_text[start:end].decode(errors="surrogateescape")))
        return found

    def index(self, shard: int) -> ShardIndex:
        if self._whole is None or self._whole[0] != shard:
            self._whole = shard, self._load(shard)
        return self._whole[1]

    def spans(self, member: str, rows: Integers) -> Iterable[tuple[int, int, int]]:
        for shard, opened, place in self._places(rows):
            column = opened.columns.get(member)
            yield (shard, 0, -1) if column is None else (shard, column[0].item(place), column[1].item(place))

    def are_training(self, rows: Integers) -> NDArray[np.bool_]:
        shards, found = self.shards(rows), np.zeros(len(rows), np.bool_)
        inside = self._in_sets[shards, _TRAIN]
        found[inside == self.lengths[shards]] = True
        for place in np.flatnonzero((inside > 0) & ~found).tolist():
            shard = int(shards[place])
            found[place] = self._homes(shard)[rows[place] - self.firsts[shard]] == _TRAIN
        return found

    def rows_of_shard(self, split: Split, shard: int) -> Integers:
        first, length = int(self.firsts[shard]), int(self.lengths[shard])
        if self._in_sets[shard, SPLITS.index(split)] == length:  # and so no index is needed
            return np.arange(first, first + length)
        return super().rows_of_shard(split, shard)

    def _homes(self, shard: int) -> Homes:
        return (self._opened.get(shard) or self._open(shard)).homes

    def _places(self, rows: Integers) -> Iterator[tuple[int, _Opened, int]]:
        """Number of its shard, what is kept of that, and its place in it, of each row."""
        shards = self.shards(rows)
        for shard, place in zip(shards.tolist(), (rows - self.firsts[shards]).tolist(), strict=True):
            yield shard, self._opened.get(shard) or self._open(shard), place

    def _open(self, shard: int) -> _Opened:
        while len(self._opened) >= self._most:
            del self._opened[next(iter(self._opened))]
        index = self._load(shard)
        ends = _narrow(np.append(0, index.key_ends))
        opened = self._opened[shard] = _Opened(index.key_text, ends, self._cut(shard, index))
        for member in self._members:
            offsets, sizes = member_column(index, member)
            if (sizes >= 0).any():
                opened.columns[member] = _narrow(offsets), _narrow(sizes)
        return opened

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_opened": {}, "_whole": None}


def count_sets(homes: Iterable[Homes]) -> Integers:
    """int64 [shards, sets]: how many rows of each shard each set has."""
    return np.array([np.bincount(each, minlength=len(SPLITS)) for each in homes], np.int64)


def member_column(index: ShardIndex, member: str) -> tuple[Integers, Integers]:
    """Offsets and sizes of the first of the member's endings that each row has."""
    offsets, sizes = np.zeros(len(index), np.int64), np.full(len(index), -1, np.int64)
    for ending in member.lower().split(";"):
        if ending.strip() in index.endings:
            place = index.endings.index(ending.strip())
            use = (sizes < 0) & (index.sizes[:, place] >= 0)
            offsets[use], sizes[use] = index.offsets[use, place], index.sizes[use, place]
    return offsets, sizes


def _narrow(numbers: Integers) -> NDArray[np.integer]:
    """The same in half the bytes, where they fit."""
    fits = (
        len(numbers) and np.iinfo(np.int32).min <= numbers.min() and numbers.max() <= np.iinfo(np.int32).max
    )
    return numbers.astype(np.int32) if fits else numbers
