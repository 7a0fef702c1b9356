"""Rows to shards: read and checked in parallel, written one after the other, so that the bytes never differ.

What a shard holds follows from rows and options alone. Reader processes work ahead (data/stream.py); this process fills
shard after shard in the order of rows. So a command that was stopped goes on after its last finished shard, and the
number of workers changes nothing.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import webdataset
from rich.console import Console

from distill_mtl.data.decode import read_image
from distill_mtl.data.stream import read_ahead
from distill_mtl.display import Display
from distill_mtl.errors import ShardError, Stopped, brief
from distill_mtl.files import atomic_file
from distill_mtl.shards.facts import Facts
from distill_mtl.shards.listed_rows import Label, LabelError, Rows
from distill_mtl.shards.members import look
from distill_mtl.shards.shard_plan import Finished, Journal
from distill_mtl.splitmix import draws, fold

_AT_ONCE = 8  # rows that a reader hands over together
_SHOWN, _NAMED = 10, 3


@dataclass(frozen=True)
class Written:
    """What came of it.

    Attributes:
        shards: in their order.
        labels: that every row has.
        facts: of all rows.
        size: of all shards in bytes.
        skipped: where the rows come from whose pictures are corrupt and that were left out.
        left_out: what else was found and not written -> how often.
        notes: what else the user should know.
        kept: how many of the shards an earlier command had written.
    """

    shards: list[Path]
    labels: tuple[Label, ...]
    facts: Facts
    size: int
    skipped: list[str]
    left_out: dict[str, int]
    notes: tuple[str, ...]
    kept: int


class CheckedRow(NamedTuple):
    """A row to be written.

    Attributes:
        next: position of the row after it.
        sample: as webdataset's writer takes it.
        facts: of this row.
    """

    next: int
    sample: dict[str, str | bytes]
    facts: Facts


class RefusedRow(NamedTuple):
    """A row that cannot be written.

    Attributes:
        place: where it comes from.
        reason: in words.
        picture: whether it is the picture that is corrupt.
    """

    place: str
    reason: str
    picture: bool


def write_shards(
    rows: Rows,
    to: str | Path,
    *,
    name: str = "",
    rows_per_shard: int = 1000,
    shuffle: int | None = 0,
    take: slice = slice(None),
    workers: int | None = None,
    overwrite: bool = False,
    skip_corrupt: bool = False,
    console: Console | None = None,
) -> Written:
    """Write shards `TO/NAME-000000.tar` and so on; what an earlier, equal command finished is kept.

    Args:
        rows: from `folder_rows`, `table_rows`, `pair_rows` or `torchvision_rows`.
        to: the folder.
        name: of the files; default the folder's.
        rows_per_shard: fewer in the last.
        shuffle: seed of the order of rows, so that neighbours are not alike; None: the order of the data set.
        take: the part of that order to write, such as slice(0, 900).
        workers: reader processes; 0 reads in this one; default one for each core.
        overwrite: replace the shards of this name that are there.
        skip_corrupt: leave out rows whose picture cannot be decoded.
        console: where progress is shown; default nowhere.

    Raises:
        ShardError: rows that cannot be read, all of them named; shards of another plan in the way; a disk
            that cannot be written to.
        Stopped: by Ctrl-C. Finished shards stay.
    """
    folder = Path(to)
    name = name or folder.resolve().name
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise ShardError(f"--name {name}: letters, digits, - and _ are expected.")
    order = _order(len(rows), shuffle)[take]
    if not len(order):
        raise ShardError(f"there are {len(rows):,} rows, and none of them is to be written.")
    plan = {
        "what": dict(rows.what),
        "digest": rows.digest(),
        "rows": len(rows),
        "take": [*take.indices(len(rows))],
        "shuffle": shuffle,
        "rows per shard": rows_per_shard,
    }
    journal = Journal(folder, name, plan, overwrite=overwrite)
    kept, first = len(journal.finished), journal.finished[-1].next if journal.finished else 0
    spans = [range(at, min(at + _AT_ONCE, len(order))) for at in range(first, len(order), _AT_ONCE)]
    workers = min(_cores() if workers is None else workers, len(spans))
    display = Display(console or Console(quiet=True), "writing", len(order), done=first, unit="row")
    reading = read_ahead(RowChecker(rows, order.tolist()), spans, workers)
    accepted = _AcceptedRows(chain.from_iterable(reading), skip_corrupt)
    try:
        with display:
            _fill(journal, accepted, rows_per_shard, display)
    except KeyboardInterrupt:
        done = journal.finished[-1].next if journal.finished else 0
        raise Stopped(
            f"stopped. {len(journal.finished)} shards with {done:,} of {len(order):,} rows are finished; the same "
            "command goes on from there."
        ) from None
    except OSError as error:
        raise ShardError(f"{folder}: cannot be written to ({error.strerror or error}).") from None
    facts = Facts()
    for finished in journal.finished:
        facts.add(finished.facts)
    return Written(
        shards=[folder / finished.shard for finished in journal.finished],
        labels=tuple(rows.labels),
        facts=facts,
        size=sum(finished.size for finished in journal.finished),
        skipped=[place for finished in journal.finished for place in finished.skipped]
        + accepted.take_skipped(),
        left_out={what: count for what, count in rows.left_out.items() if count},
        notes=tuple(rows.notes),
        kept=kept,
    )


def _fill(journal: Journal, accepted: "_AcceptedRows", rows_per_shard: int, display: Display) -> None:
    """Write shard after shard until no row is left."""
    rows = iter(accepted)
    while (first := next(rows, None)) is not None:
        path, facts = journal.shard(len(journal.finished)), Facts()
        with (
            atomic_file(path) as file,
            webdataset.TarWriter(file, encoder=False, mtime=0) as writer,
        ):
            for row in chain([first], islice(rows, rows_per_shard - 1)):
                writer.write(row.sample)
                facts.add(row.facts)
                display.update(row.next)
        size = path.stat().st_size
        journal.add(Finished(path.name, size, row.next, facts, accepted.take_skipped()))
    if not journal.finished:
        raise ShardError(f"{journal.folder}: not one picture can be decoded.")


class _AcceptedRows:
    """The good rows. Once a row is refused nothing more comes, but all rows are read, to name every mistake.

    Args:
        rows: in their order.
        skip_corrupt: a corrupt picture is left out, not refused.
    """

    def __init__(self, rows: Iterator[CheckedRow | RefusedRow], skip_corrupt: bool) -> None:
        self._rows, self._skip_corrupt = rows, skip_corrupt
        self._skipped: list[str] = []

    def __iter__(self) -> Iterator[CheckedRow]:
        refused: list[RefusedRow] = []
        for row in self._rows:
            if isinstance(row, RefusedRow):
                if row.picture and self._skip_corrupt:
                    self._skipped.append(row.place)
                else:
                    refused.append(row)
            elif not refused:
                yield row
        if refused:
            raise _refusal(refused)

    def take_skipped(self) -> list[str]:
        """The rows left out since the last call."""
        skipped, self._skipped = self._skipped, []
        return skipped


def _refusal(refused: list[RefusedRow]) -> ShardError:
    places: dict[str, list[str]] = {}  # one mistake in all rows is said once
    for row in refused:
        places.setdefault(row.reason, []).append(row.place)
    listed = "\n".join(f"  {_some(where)}: {reason}" for reason, where in list(places.items())[:_SHOWN])
    rest = sum(len(where) for where in list(places.values())[_SHOWN:])
    more = f"\n  and {rest:,} more" if rest else ""
    mend = "Mend or remove them, and run the command again (with --overwrite, where shards are finished)"
    if all(row.picture for row in refused):
        mend += "; or leave them out with --skip-corrupt"
    rows = "1 row" if len(refused) == 1 else f"{len(refused):,} rows"
    return ShardError(f"{rows} cannot be written:\n{listed}{more}\n{mend}.")


def _some(places: list[str]) -> str:
    return ", ".join(places[:_NAMED]) + (
        f" and {len(places) - _NAMED:,} more" if len(places) > _NAMED else ""
    )


def _order(count: int, shuffle: int | None) -> np.ndarray:
    """int64 [count]: the rows in the order of the shards, the same on every machine."""
    if shuffle is None:
        return np.arange(count)
    return np.argsort(draws(fold("shards", shuffle), count)[0], kind="stable")


def _cores() -> int:
    """That this process may use; one core reads without a process of its own."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    return count if count > 1 else 0


class RowChecker:
    """Reads rows by their position in the order of the shards. It travels to reader processes.

    Args:
        rows: of the data set.
        order: numbers of rows.
    """

    def __init__(self, rows: Rows, order: Sequence[int]) -> None:
        self._rows, self._order = rows, order

    def __call__(self, positions: range) -> list[CheckedRow | RefusedRow]:
        """The rows at some positions."""
        return [self._read(position) for position in positions]

    def _read(self, position: int) -> CheckedRow | RefusedRow:
        number = self._order[position]
        try:
            content = self._rows.read(number)
            _, height, width = read_image(content.picture).shape
            facts = Facts(rows=1)
            facts.sizes[f"{width}x{height}"] = 1
            for member, label in content.members.items():
                look(member, label, (height, width), facts)
        except LabelError as error:
            return RefusedRow(self._rows.place(number), str(error).rstrip("."), False)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else brief(error)
            return RefusedRow(self._rows.place(number), reason, True)
        sample: dict[str, str | bytes] = {
            "__key__": self._rows.key(number),
            content.ending: content.picture,
            **content.members,
        }
        return CheckedRow(position + 1, sample, facts)
