"""Every label of a run is read once before it trains: labels that cannot be read, teach nothing or are impossible.

What was counted is kept in the index beside each shard, so that the next check reads nothing again.
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image
from rich.console import Console

from distill_mtl.data import Sources
from distill_mtl.data.batch import Integers
from distill_mtl.data.index import keep_label_counts, read_label_counts
from distill_mtl.data.source import Source
from distill_mtl.display import Display
from distill_mtl.errors import ShardError
from distill_mtl.geometry.views import Size
from distill_mtl.splits import Split
from distill_mtl.tasks.base import TaskKind, is_user_kind
from distill_mtl.tasks.label import LabelCounts

_VERSION = 2
"""Of what is counted and compared: an earlier version's counts are not used. 1 did not compare a map's size."""
_AT_ONCE = 256  # labels in memory
_SHOWN = 3  # labels that cannot be read
_FORMATS = ("JPEG", "PNG", "WEBP")
_QUARTER_TURNS = range(5, 9)  # of EXIF's orientations
_ANY_SIZE: Size = (2**31, 2**31)
"""Of a picture that is not looked at, or cannot be read: nothing lies beyond it."""


def check_labels(sources: Sources, kinds: Mapping[str, TaskKind], console: Console) -> None:
    """Read every label of every task, and say what is strange about them.

    Args:
        sources: all data sets of the run.
        kinds: the tasks.
        console: where progress and doubts are shown.

    Raises:
        ShardError: labels cannot be read, or none of a task's labels says anything; all tasks at once.
    """
    fatal = []
    for source in sources.opened:
        if (
            source.store is not None
            and source.labels
            and (left := len(source.shards) - len(_looked_at(source)))
        ):
            note = (
                f"data.{source.name}: labels of {left} of {len(source.shards)} shards are not looked at yet"
            )
            console.print(note, highlight=False, markup=False, soft_wrap=True)
    counted = count_labels(sources, kinds, console)
    for task, sets in counted.items():
        said = set[str]()
        for split, counts in sets.items():
            for doubt in kinds[task].doubts(counts):
                place = f"{task}, {split} labels: {doubt.text}"
                if doubt.fatal and not any(source.store for source in sources.opened):
                    fatal.append(place)
                elif doubt.text not in said:
                    console.print(place, style="yellow", highlight=False, markup=False, soft_wrap=True)
                said.add(doubt.text)
    if fatal:
        raise ShardError("\n".join(fatal))


def count_labels(
    sources: Sources, kinds: Mapping[str, TaskKind], console: Console
) -> dict[str, dict[Split, LabelCounts]]:
    """The counts of each task's labels, by the set that the recipe names their shards in.

    Sets that are cut from the training shards by a hash of the key are counted with these.

    Raises:
        ShardError: labels cannot be read.
    """
    parts = [
        _Part(source, task, kinds[task], split, path, rows)
        for source in sources.opened
        for task in source.labels
        for split, path, rows in _looked_at(source)
    ]
    counts: dict[str, dict[Split, LabelCounts]] = {task: {} for task in kinds}
    findings: list[str] = []
    done = unreadable = 0
    display = Display(console, "reading labels", sum(len(part.rows) for part in parts), unit="row")
    with display:
        for part in parts:
            found = part.kept()
            if found is None:
                found = LabelCounts()
                before = len(findings)
                for read in part.read(found, findings):
                    display.update(done + read)
                unreadable += len(findings) - before
                if len(findings) == before:
                    part.keep(found)
                findings = findings[:_SHOWN]
            done += len(part.rows)
            display.update(done)
            counts[part.task].setdefault(part.split, LabelCounts()).add(found)
    if findings:
        more = f"\n… and {unreadable - len(findings):,} more" if unreadable > len(findings) else ""
        raise ShardError("\n".join(findings) + more)
    return counts


def _looked_at(source: Source) -> list[tuple[Split, Path, range]]:
    """The shards whose labels are read: all; where they stay in a bucket, the first of each set."""
    whole = source.whole_shards()
    if source.store is None:
        return whole
    return list({split: (split, path, rows) for split, path, rows in reversed(whole)}.values())


class _Part:
    """The labels of one task in one shard.

    Args:
        source: that has the shard.
        task: whose labels are counted.
        kind: of the task.
        split: the set that the recipe names the shard in.
        path: of the shard.
        rows: all rows of the shard, numbers in the source.
    """

    def __init__(
        self, source: Source, task: str, kind: TaskKind, split: Split, path: Path, rows: range
    ) -> None:
        self.source, self.task, self.kind = source, task, kind
        self.split, self.path, self.rows = split, path, rows
        self._member = source.labels[task]
        self._knows = kind.knows.get(source.name)

    def kept(self) -> LabelCounts | None:
        """What an earlier check counted; None: nothing, or not these labels."""
        if is_user_kind(self.kind.name):  # its code may have changed
            return None
        try:
            found = LabelCounts.from_json(read_label_counts(self.path, self._name()))
        except (TypeError, KeyError, ValueError, AttributeError):
            return None
        return found if found.rows == len(self.rows) else None

    def keep(self, counts: LabelCounts) -> None:
        """Keep what was counted for the next check."""
        if not is_user_kind(self.kind.name):
            keep_label_counts(self.path, self._name(), counts.to_json())

    def read(self, counts: LabelCounts, findings: list[str]) -> Iterator[int]:
        """Count all labels; yields how many are read, and adds the labels that cannot be read to the findings."""
        for first in range(0, len(self.rows), _AT_ONCE):
            rows = np.array(self.rows[first : first + _AT_ONCE])
            payloads = self.source.payloads(self._member, rows)
            sizes = self._picture_sizes(rows)
            alike = Counter(zip(payloads, sizes, strict=True))
            for (payload, size), times in alike.items():
                try:
                    label = self.kind.read_label(payload)
                    if self._knows is not None:
                        self.kind.within(label, self._knows)
                    if size != _ANY_SIZE:
                        self.kind.check_size(label, size)
                except ValueError as error:
                    each = zip(rows.tolist(), payloads, sizes, strict=True)
                    wrong = [row for row, *other in each if other == [payload, size]]
                    findings += [f"{self.source.place(self._member, row)}: {error}" for row in wrong]
                    continue
                counts.add_label(self.kind, label, size, times)
            yield first + len(rows)

    def _picture_sizes(self, rows: Integers) -> Sequence[Size]:
        """Height and width of each row's picture, for kinds whose labels are places in it."""
        if not self.kind.dense:
            return [_ANY_SIZE] * len(rows)
        return [_picture_size(payload) for payload in self.source.payloads(self.source.image, rows)]

    def _name(self) -> str:
        # With options that no label depends on: a needless count is a small price.
        options = {key: value for key, value in self.kind.describe().items() if key not in ("metric", "head")}
        counted = [_VERSION, self._member, options, *([self._knows] if self._knows else [])]
        return hashlib.sha256(json.dumps(counted, default=str).encode()).hexdigest()[:16]


def _picture_size(payload: bytes) -> Size:
    """As it is shown, from its header alone."""
    try:
        with Image.open(io.BytesIO(payload), formats=_FORMATS) as picture:
            turned = picture.getexif().get(ExifTags.Base.Orientation, 1) in _QUARTER_TURNS
            height, width = picture.height, picture.width
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return _ANY_SIZE  # the picture is refused, or skipped, where it is read
    return (width, height) if turned else (height, width)
