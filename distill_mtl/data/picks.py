"""The rows of a batch by number: what the plan decides, the stream cuts up, and the reader reads."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Picks:
    """B rows, source after source.

    Attributes:
        source: int64 [B], which source, ascending.
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

    def by_source(self) -> Iterator[tuple[int, slice]]:
        """(source, where its rows stand) for every source that has some."""
        start = 0
        for number, count in enumerate(np.bincount(self.source).tolist()):
            if count:
                yield number, slice(start, start + count)
            start += count
