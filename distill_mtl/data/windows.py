"""The order of a source that is read shard by shard: windows of shards, on lanes.

As in `order`, each position of the endless stream gives a row, and nothing depends on what was asked before. But
what is computed and held is the windows that positions lie in, not the permutation of all rows, and rows that are
drawn near each other come from few shards.

An epoch lays the shards out in an order of its own, and cuts this row of N rows into L stretches of equal length, one
for each lane. A lane goes through its stretch window by window, each W shards, whose rows are permuted together.
Position p is the next row of lane p mod L, so the lanes advance side by side: a process whose lanes are those with
lane mod world = rank draws all its rows from shards of its own, but for those that a stretch's border cuts. Whatever
divides L may be the number of processes, and the rows of a step stay the same.
"""

import copy
import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distill_mtl.data.order import Drawn, Positions
from distill_mtl.splitmix import draws, fold

Integers = NDArray[np.int64]
_LAYOUTS = 4


@dataclass(frozen=True)
class RowsByShard:
    """Some rows of a source; which ones is looked up when a shard's turn comes.

    Attributes:
        counts: int64 [S], how many there are in each shard.
        of: number of a shard -> its rows, int64, ascending.
    """

    counts: Integers
    of: Callable[[int], Integers]

    def __len__(self) -> int:
        return int(self.counts.sum())

    def at(self, places: Integers) -> Integers:
        """int64 [P]: the rows at some places among all of them."""
        ends = np.cumsum(self.counts)
        shards, rows = np.searchsorted(ends, places, side="right"), np.empty(len(places), np.int64)
        order = np.argsort(shards, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(shards[order])) + 1) if len(order) else ():
            shard = int(shards[part[0]])
            rows[part] = self.of(shard)[places[part] - (ends[shard] - self.counts[shard])]
        return rows


class Window(NamedTuple):
    """Shards that a lane draws rows from.

    Attributes:
        first: position of the first row.
        end: one more than the position of the last.
        shards: numbers in the source, ascending.
    """

    first: int
    end: int
    shards: list[int]


class Windows:
    """Every row once per epoch, each epoch in its own order, a window of shards of each lane at a time.

    With one lane and a window of all shards it is `order.Shuffled`, to the bit.

    Args:
        seed: of the recipe.
        name: of the source, or of the part of it that the rows are.
        rows: by shard, at least one.
        window: shards that are mixed with each other.
        lanes: how many there are.

    Attributes:
        lanes: as given.
    """

    def __init__(self, seed: int, name: str, rows: RowsByShard, *, window: int, lanes: int) -> None:
        self._seed, self._name, self._of = seed, name, rows.of
        self._shards = np.flatnonzero(rows.counts)
        self._counts = rows.counts[self._shards]
        self._total = int(self._counts.sum())
        self._window, self.lanes = window, lanes
        self._layouts: dict[int, tuple[Integers, Integers]] = {}
        # Of the window that each lane is in: its epoch, the places in it that it has, and their rows.
        self._epoch, self._begin, self._end = (np.full(lanes, -1, np.int64) for _ in range(3))
        self._rows: list[Integers] = [np.zeros(0, np.int64)] * lanes

    def __call__(self, positions: Positions) -> Drawn:
        """(epoch, row) of each position [P]; the epoch says how often the row came before."""
        epochs, turns = np.divmod(positions, self._total)
        rounds, stretches = np.divmod(turns, self.lanes)
        lanes, places = positions % self.lanes, self._start(stretches) + rounds
        rows, open_ = np.empty_like(positions), np.arange(len(positions))
        while len(open_):
            lane, place = lanes[open_], places[open_]
            begin = self._begin[lane]
            inside = (self._epoch[lane] == epochs[open_]) & (place >= begin) & (place < self._end[lane])
            found = zip(lane[inside].tolist(), (place - begin)[inside].tolist(), strict=True)
            rows[open_[inside]] = [self._rows[one].item(at) for one, at in found]
            open_ = open_[~inside]
            # The windows of a lane one after the other, so that each is made once.
            for lane_, at in zip(*np.unique(lanes[open_], return_index=True), strict=True):
                one = open_[at]
                self._enter(int(lane_), int(epochs[one]), int(stretches[one]), int(places[one]))
        return epochs, rows

    def apart(self) -> "Windows":
        """The same order for another thread: what it keeps is its own."""
        twin = copy.copy(self)
        twin._layouts = {}
        return twin

    def ahead(self, position: int, lanes: Iterable[int] | None = None) -> Iterator[Window]:
        """The windows that hold positions from `position` on, without end, by their first position.

        Args:
            position: where to begin; the windows that it lies in come first.
            lanes: those of a process; None: all.
        """
        mine = range(self.lanes) if lanes is None else lanes
        return heapq.merge(*(self._ahead(lane, position) for lane in mine))

    def _ahead(self, lane: int, position: int) -> Iterator[Window]:
        position += (lane - position) % self.lanes
        while True:
            epoch, turn = divmod(position, self._total)
            round_, stretch = divmod(turn, self.lanes)
            start = int(self._start(stretch))
            begin, end, slots = self._borders(epoch, stretch, start + round_)
            first, last = (
                epoch * self._total + (place - start) * self.lanes + stretch for place in (begin, end - 1)
            )
            yield Window(first, last + 1, sorted(self._shards[self._layout(epoch)[0][slots]].tolist()))
            position = last + self.lanes

    def _enter(self, lane: int, epoch: int, stretch: int, place: int) -> None:
        """Let the lane be in the window that a place of an epoch lies in."""
        begin, end, slots = self._borders(epoch, stretch, place)
        order, borders = self._layout(epoch)
        parts = []
        for slot in sorted(range(slots.start, slots.stop), key=order.__getitem__):
            low, high = max(begin, int(borders[slot])), min(end, int(borders[slot + 1]))
            rows = self._of(int(self._shards[order[slot]]))
            parts.append(rows[low - int(borders[slot]) : high - int(borders[slot])])
        # The window's stretch of the epoch's hashes: with a window of all rows these are all of them.
        hashes = draws(fold(self._seed, self._name, epoch), end - begin, begin)[0]
        self._epoch[lane], self._begin[lane], self._end[lane] = epoch, begin, end
        self._rows[lane] = np.concatenate(parts)[np.argsort(hashes, kind="stable")]

    def _borders(self, epoch: int, stretch: int, place: int) -> tuple[int, int, slice]:
        """Of the window that a place of an epoch lies in: its first place, the one after its last, and where its
        shards stand in the layout."""
        borders = self._layout(epoch)[1]
        start, stop = int(self._start(stretch)), int(self._start(stretch + 1))
        first, slot = (int(np.searchsorted(borders, each, side="right")) - 1 for each in (start, place))
        slot -= (slot - first) % self._window
        end = min(slot + self._window, int(np.searchsorted(borders, stop)))
        return max(int(borders[slot]), start), min(int(borders[end]), stop), slice(slot, end)

    def _layout(self, epoch: int) -> tuple[Integers, Integers]:
        """The shards in the order of an epoch, [S], and the places where each begins and the last ends, [S + 1]. Some
        are kept: lanes do not enter an epoch at the same moment, and what is fetched is ahead of what is read."""
        if epoch not in self._layouts:
            while len(self._layouts) >= _LAYOUTS:
                del self._layouts[min(self._layouts)]
            hashes = draws(fold(self._seed, self._name, "shards", epoch), len(self._shards))[0]
            order = np.argsort(hashes, kind="stable")
            self._layouts[epoch] = order, np.append(0, np.cumsum(self._counts[order]))
        return self._layouts[epoch]

    def _start(self, stretch: Integers | int) -> Integers:
        """The place where a stretch begins. The first ones are longer by a row where L does not divide N."""
        length, rest = divmod(self._total, self.lanes)
        return np.asarray(stretch * length + np.minimum(stretch, rest))
