"""Write rows to shards: read and checked in parallel, written in order, so that the bytes are always the same.

What a shard holds follows from rows and options alone. Reader processes work ahead (data/stream.py); this process fills
shard after shard in the order of rows. So a command that was stopped goes on after its last finished shard, and the
number of workers changes nothing.
"""

import math
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import webdataset
from rich.console import Console

from distill_mtl.cores import usable_cores
from distill_mtl.data.checksums import write_checksums
from distill_mtl.data.decode import read_image
from distill_mtl.data.stream import read_ahead
from distill_mtl.display import Display
from distill_mtl.errors import ShardError, Stopped, WriteError, brief
from distill_mtl.files import atomic_file, refuse_full_disks
from distill_mtl.reading import Remedy
from distill_mtl.remote_files import is_remote
from distill_mtl.shards.bucket_plan import BucketPlan, folder_name
from distill_mtl.shards.label_kinds import Label
from distill_mtl.shards.listed_rows import LabelError, ListedRows
from distill_mtl.shards.shard_plan import FinishedShard, RowCounts, ShardPlan, shards_called
from distill_mtl.splitmix import draws, fold
from distill_mtl.tasks.label import LabelCounts

_AT_ONCE = 8  # rows that a reader hands over together
_SHOWN, _NAMED = 10, 3
_MEASURED = 16  # rows that are read to know how large they are
_ROOM = "Make room there, name a place on another disk, or write fewer rows with --take."


@dataclass(frozen=True)
class WrittenShards:
    """The shards of a finished command, and what they hold.

    Attributes:
        shards: paths, or URLs in a bucket, in their order.
        labels: that every row has.
        counts: over all rows.
        size: of all shards in bytes.
        skipped: where the rows come from whose pictures are corrupt and that were left out.
        left_out: what else was found and not written -> how often.
        notes: what else the user should know.
        kept: how many of the shards an earlier command had written.
    """

    shards: Sequence[Path | str]
    labels: tuple[Label, ...]
    counts: RowCounts
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
        counts: of this row.
    """

    next: int
    sample: dict[str, str | bytes]
    counts: RowCounts


class RefusedRow(NamedTuple):
    """A row that cannot be written.

    Attributes:
        place: where it comes from.
        reason: a text.
        picture: whether it is the picture that is corrupt.
    """

    place: str
    reason: str
    picture: bool


def write_shards(
    rows: ListedRows,
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
) -> WrittenShards:
    """Write shards `TO/NAME-000000.tar` and so on; what an earlier, equal command finished is kept.

    Args:
        rows: from `folder_rows`, `table_rows`, `pair_rows` or `torchvision_rows`, or a set of `coco_sets`, `yolo_sets`,
            `voc_sets` or `hf_sets`.
        to: the folder, or the URL of one in a bucket.
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
    name = name or folder_name(str(to))
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise ShardError(f"--name {name}: letters, digits, - and _ are expected.")
    order = _order(len(rows), shuffle)[take]
    if not len(order):
        raise ShardError(f"there are {len(rows):,} rows, and none of them is to be written.")
    described = {
        "what": dict(rows.what),
        "digest": rows.digest(),
        "rows": len(rows),
        "take": [*take.indices(len(rows))],
        "shuffle": shuffle,
        "rows per shard": rows_per_shard,
    }
    if is_remote(to):
        plan: ShardPlan = BucketPlan(str(to), name, described, overwrite=overwrite)
    else:
        folder = Path(to)
        there = sum(path.stat().st_size for path in shards_called(name, folder))  # kept, or replaced
        needed = _bytes_of(rows, order.tolist()) - there
        refuse_full_disks({folder: needed}, f"--to {folder}", Remedy(_ROOM, ShardError))
        plan = ShardPlan(folder, name, described, overwrite=overwrite)
    kept, first = len(plan.finished), plan.next_position()
    spans = [range(at, min(at + _AT_ONCE, len(order))) for at in range(first, len(order), _AT_ONCE)]
    workers = min(_cores() if workers is None else workers, len(spans))
    display = Display(console or Console(quiet=True), "writing", len(order), done=first, unit="row")
    checker = _RowChecker(rows, order.tolist())
    reading = read_ahead(checker, spans, workers, checker.one_by_one)
    accepted = _AcceptedRows(chain.from_iterable(reading), skip_corrupt)
    try:
        with display:
            _fill(plan, accepted, rows_per_shard, display)
    except KeyboardInterrupt:
        raise Stopped(
            f"stopped. {len(plan.finished)} shards with {plan.next_position():,} of {len(order):,} rows are finished; "
            "the same command continues."
        ) from None
    except WriteError as error:
        raise ShardError(
            f"{error} {len(plan.finished)} shards are finished; the same command continues."
        ) from None
    return _written(plan, rows, accepted.take_skipped(), kept)


def _written(plan: ShardPlan, rows: ListedRows, skipped: list[str], kept: int) -> WrittenShards:
    """What the finished shards of a plan hold; `skipped` are the pictures left out after the last of them."""
    counts = RowCounts()
    for finished in plan.finished:
        counts.add(finished.counts)
    return WrittenShards(
        shards=[
            place if is_remote(place := plan.place(finished.shard)) else Path(place)
            for finished in plan.finished
        ],
        labels=tuple(rows.labels),
        counts=counts,
        size=sum(finished.size for finished in plan.finished),
        skipped=[place for finished in plan.finished for place in finished.skipped] + skipped,
        left_out={what: count for what, count in rows.left_out.items() if count},
        notes=tuple(rows.notes),
        kept=kept,
    )


def _fill(plan: ShardPlan, accepted: "_AcceptedRows", rows_per_shard: int, display: Display) -> None:
    """Write shard after shard until no row is left."""
    rows = iter(accepted)
    while (first := next(rows, None)) is not None:
        path, counts = plan.shard(len(plan.finished)), RowCounts()
        checksums: dict[tuple[str, str], int] = {}
        with (
            atomic_file(path) as file,
            webdataset.TarWriter(file, encoder=False, mtime=0) as writer,
        ):
            for row in chain([first], islice(rows, rows_per_shard - 1)):
                writer.write(row.sample)
                checksums |= _checksums(row.sample)
                counts.add(row.counts)
                display.update(row.next)
        write_checksums(path, checksums)
        size = path.stat().st_size
        plan.add(FinishedShard(path.name, size, row.next, counts, accepted.take_skipped()))
    if not plan.finished:
        raise ShardError(f"{plan.place('')}: not one picture can be decoded.")


def _checksums(sample: Mapping[str, str | bytes]) -> dict[tuple[str, str], int]:
    key = str(sample["__key__"])
    return {
        (key, ending): zlib.crc32(content) for ending, content in sample.items() if isinstance(content, bytes)
    }


class _AcceptedRows:
    """The rows to be written. Once a row is refused nothing more comes, but all rows are read, to name every mistake.

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
    remedy = "Correct or remove them, and run the command again (with --overwrite, where shards are finished)"
    if all(row.picture for row in refused):
        remedy += "; or leave them out with --skip-corrupt"
    rows = "1 row" if len(refused) == 1 else f"{len(refused):,} rows"
    return ShardError(f"{rows} cannot be written:\n{listed}{more}\n{remedy}.")


def _some(places: list[str]) -> str:
    return ", ".join(places[:_NAMED]) + (
        f" and {len(places) - _NAMED:,} more" if len(places) > _NAMED else ""
    )


def _order(count: int, shuffle: int | None) -> np.ndarray:
    """int64 [count]: the rows in the order of the shards, the same on every machine."""
    if shuffle is None:
        return np.arange(count)
    return np.argsort(draws(fold("shards", shuffle), count)[0], kind="stable")


def _bytes_of(rows: ListedRows, order: Sequence[int]) -> int:
    """About what the shards take: rows whose size only reading tells count as the mean of a few of them."""
    known, unknown = 0, list[int]()
    for number in order:
        if (sizes := rows.sizes(number)) is None:
            unknown.append(number)
        else:
            known += _bytes_in_tar(sizes)
    measured = []
    for number in unknown[:: max(1, len(unknown) // _MEASURED)][:_MEASURED]:
        with suppress(OSError, ValueError):  # it is refused, or left out, where it is its turn
            content = rows.read(number)
            _, height, width = read_image(content.picture).shape
            content = rows.with_labels(number, content, (height, width))
            measured.append(_bytes_in_tar([len(content.picture), *map(len, content.members.values())]))
    return known + (len(unknown) * sum(measured) // len(measured) if measured else 0)


def _bytes_in_tar(sizes: Sequence[int]) -> int:
    """Of members: each has a header, and its content fills whole blocks."""
    return sum(tarfile.BLOCKSIZE * (1 + math.ceil(size / tarfile.BLOCKSIZE)) for size in sizes)


def _cores() -> int:
    """That this process may use; one core reads without a process of its own."""
    count = usable_cores()
    return count if count > 1 else 0


class _RowChecker:
    """Reads and checks rows by their position in the order of the shards. It travels to reader processes.

    Args:
        rows: of the data set.
        order: numbers of rows.
    """

    def __init__(self, rows: ListedRows, order: Sequence[int]) -> None:
        self._rows, self._order = rows, order

    def __call__(self, positions: range) -> list[CheckedRow | RefusedRow]:
        """The rows at some positions."""
        return [self._check(position) for position in positions]

    def one_by_one(self, positions: range) -> Iterator[tuple[str, range]]:
        """Where each row comes from, and its position alone."""
        for position in positions:
            yield self._rows.place(self._order[position]), range(position, position + 1)

    def _check(self, position: int) -> CheckedRow | RefusedRow:
        number = self._order[position]
        try:
            content = self._rows.read(number)
            _, height, width = read_image(content.picture).shape
            content = self._rows.with_labels(number, content, (height, width))
        except LabelError as error:
            return RefusedRow(self._rows.place(number), str(error).rstrip("."), False)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else brief(error)
            return RefusedRow(self._rows.place(number), reason, True)
        counts = RowCounts(rows=1, sizes=Counter({f"{width}x{height}": 1}))
        for label in self._rows.labels:
            try:
                read = label.kind.read_label(content.members[label.member])
                label.kind.check_size(read, (height, width))
            except ValueError as error:
                reason = f"{label.named()}: {str(error).rstrip('.')}"
                return RefusedRow(self._rows.place(number), reason, False)
            counts.labels[label.member] = LabelCounts()
            counts.labels[label.member].add_label(label.kind, read, (height, width))
        sample: dict[str, str | bytes] = {
            "__key__": self._rows.key(number),
            content.ending: content.picture,
            **content.members,
        }
        return CheckedRow(position + 1, sample, counts)
