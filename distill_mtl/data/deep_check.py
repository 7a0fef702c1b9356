"""Every row read once: its checksums compared, its picture decoded, its labels read (`distill-mtl check --deep`)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from distill_mtl.data.batch import Integers
from distill_mtl.data.decode import read_image
from distill_mtl.data.reader import read_labels
from distill_mtl.data.source import Source
from distill_mtl.data.stream import read_ahead
from distill_mtl.errors import ShardError
from distill_mtl.tasks.base import TaskKind

_ROWS = 64  # that a reader handles together
Block = tuple[int, Integers]


@dataclass
class RowsChecked:
    """What was found in some rows.

    Attributes:
        rows: how many.
        faults: place and finding of each row that is damaged.
        skipped: rows whose picture cannot be decoded, where the source says `corrupt: skip`.
    """

    rows: int = 0
    faults: list[str] = field(default_factory=list)
    skipped: int = 0


def check_rows(
    sources: Sequence[Source], kinds: Mapping[str, TaskKind], workers: int
) -> Iterator[RowsChecked]:
    """Check every row of some sources, block after block.

    Args:
        sources: opened.
        kinds: every task that they have labels for.
        workers: reader processes; 0 reads in this one.

    Raises:
        ShardError: a row ends its reader process.
    """
    blocks = [
        (number, np.arange(first, min(first + _ROWS, len(source))))
        for number, source in enumerate(sources)
        for first in range(0, len(source), _ROWS)
    ]
    check = _CheckRows(sources, kinds)
    return read_ahead(check, blocks, workers, check.one_by_one)


class _CheckRows:
    """The work of a reader process."""

    def __init__(self, sources: Sequence[Source], kinds: Mapping[str, TaskKind]) -> None:
        self._sources, self._kinds = sources, kinds

    def __call__(self, block: Block) -> RowsChecked:
        source, found = self._sources[block[0]], RowsChecked()
        for row in block[1].tolist():
            found.rows += 1
            if damaged := source.damaged(row):
                place = source.place(source.image, row).rpartition(", member ")[0]
                found.faults.append(
                    f"{place}: {', '.join(damaged)}: the bytes do not have their checksum, so they were changed"
                )
            else:
                self._read(source, row, found)
        return found

    def one_by_one(self, block: Block) -> Iterator[tuple[str, Block]]:
        """Where each row stands, and its block alone."""
        source = self._sources[block[0]]
        for place, row in enumerate(block[1].tolist()):
            yield source.place(source.image, row), (block[0], block[1][place : place + 1])

    def _read(self, source: Source, row: int, found: RowsChecked) -> None:
        column = source.image
        try:
            picture = read_image(source.payloads(column, np.array([row]))[0])
        except ValueError as error:
            if source.section.corrupt == "skip":
                found.skipped += 1
            else:
                found.faults.append(f"{source.place(column, row)}: {error}")
            return
        for task, column in source.labels.items():
            kind = self._kinds[task]
            try:
                label = read_labels(source, [row], task, kind)[0]
                kind.check_size(label, (picture.shape[1], picture.shape[2]))
            except ShardError as error:
                found.faults.append(str(error))
            except ValueError as error:
                found.faults.append(f"{source.place(column, row)}: {error}")
