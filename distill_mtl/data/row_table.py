"""Where the members and the keys of a source's rows stand, and which set each row belongs to.

`HeldRows` has it at hand for every row. `RowsOnDemand` knows only how many rows each shard has, and opens the index of
a shard when one of its rows is asked for, so that its memory follows the shards that are read and not the source.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distill_mtl.data.batch import Integers
from distill_mtl.data.index import ShardIndex
from distill_mtl.data.windows import RowsByShard
from distill_mtl.errors import ShardError
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


class _Opened(NamedTuple):
    """A shard whose rows stand in the arrays of `RowsOnDemand`.

    Attributes:
        start, end: where.
        key_text: its keys without anything between them.
        homes: the set of each row.
    """

    start: int
    end: int
    key_text: bytes
    homes: Homes


class RowsOnDemand(RowTable):
    """The rows of a source whose indexes are opened when they are needed.

    The rows of open shards stand in arrays, in the order in which these were opened, and the oldest make room for new
    ones from the arrays' begin on: windows are left in the order in which they are entered. So many rows are looked up
    at once, as in `HeldRows`.

    Args:
        load: number of a shard -> its index.
        lengths: int64 [S], rows of each shard.
        in_sets: int64 [S, sets], how many of them each set has.
        homes: number and index of a shard -> the set of each of its rows.
        members: those that are asked for.
        most: shards that are open at a time.

    Raises:
        ShardError: later, when a shard is opened that has another number of rows than before.
    """

    _whole: tuple[int, ShardIndex] | None

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
        # Any so many shards, and the end of the arrays, which a shard may be too long for.
        self._room = int(np.sort(lengths)[-most:].sum() + lengths.max(initial=0))
        self._close()

    def keys(self, rows: Integers) -> list[tuple[int, str]]:
        found = []
        for shards, places in self._places(rows):
            spans = self._key_spans[places].tolist()
            for shard, (start, end) in zip(shards.tolist(), spans, strict=True):
                text = self._opened[shard].key_text[start:end]
                found.append((shard, text.decode(errors="surrogateescape")))
        return found

    def index(self, shard: int) -> ShardIndex:
        if self._whole is None or self._whole[0] != shard:
            self._whole = shard, self._load(shard)
        return self._whole[1]

    def spans(self, member: str, rows: Integers) -> Iterable[tuple[int, int, int]]:
        found = list[tuple[int, int, int]]()
        for shards, places in self._places(rows):
            if member in self._columns:
                offsets, sizes = (column[places].tolist() for column in self._columns[member])
            else:
                offsets, sizes = [0] * len(places), [-1] * len(places)
            found += zip(shards.tolist(), offsets, sizes, strict=True)
        return found

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

    def _places(self, rows: Integers) -> Iterator[tuple[NDArray[np.integer], Integers]]:
        """Shards of rows, and their places in the arrays: of all of them, or of parts that are open together."""
        shards = self.shards(rows)
        starts = self._starts[shards]
        if (closed := starts < 0).any():
            for shard in np.unique(shards[closed]).tolist():
                self._open(shard)
            starts = self._starts[shards]
        if (starts < 0).any():  # the last ones took the room of the first
            half = len(rows) // 2
            yield from self._places(rows[:half])
            yield from self._places(rows[half:])
        else:
            yield shards, starts + rows - self.firsts[shards]

    def _open(self, shard: int) -> _Opened:
        index = self._load(shard)
        if len(index) != self.lengths[shard]:
            raise ShardError(
                f"{index.path}: has {len(index):,} rows now and had {self.lengths[shard]:,} when the run began; it was "
                "changed while it was read."
            )
        start = self._make_room(len(index))
        end = start + len(index)
        for member in self._members:
            offsets, sizes = member_column(index, member)
            if member not in self._columns and (sizes >= 0).any():
                self._columns[member] = np.empty(self._room, np.int64), np.full(self._room, -1, np.int64)
            if member in self._columns:
                for column, values in zip(self._columns[member], (offsets, sizes), strict=True):
                    column[start:end] = values
        self._key_spans[start:end] = index.key_spans()
        self._starts[shard] = start
        opened = _Opened(start, end, index.key_text, self._cut(shard, index))
        self._opened[shard] = opened
        return opened

    def _make_room(self, rows: int) -> int:
        """Where so many rows begin; what stood there is closed."""
        start = max((opened.end for opened in list(self._opened.values())[-1:]), default=0)
        turned = start + rows > self._room
        for shard, opened in list(self._opened.items()):
            # Of those behind, which are the oldest, all go where the rows begin anew.
            behind, before = opened.start >= start, opened.start < (rows if turned else start + rows)
            if len(self._opened) < self._most and not (behind or before if turned else behind and before):
                break
            del self._opened[shard]
            self._starts[shard] = -1
        return 0 if turned else start

    def _close(self) -> None:
        """Close all shards."""
        self._opened: dict[int, _Opened] = {}
        self._starts = np.full(len(self.lengths), -1, np.int64)
        self._columns: dict[str, tuple[Integers, Integers]] = {}
        self._key_spans = np.empty((self._room, 2), np.int32)
        self._whole = None

    def __getstate__(self) -> dict[str, object]:
        opened = ("_opened", "_starts", "_columns", "_key_spans", "_whole")
        return {name: value for name, value in self.__dict__.items() if name not in opened}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._close()


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
