"""The plan of the shards to write, and which are finished: `NAME.plan.jsonl` beside the shards.

Its first line is the plan: rows, labels and options, which decide the bytes of the shards. Then each finished shard
has a line with what was counted in it. A line is written after its shard, so it stands for a whole shard; a
truncated last line is ignored.
"""

import glob
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt
from typing_extensions import TypedDict

from distill_mtl.errors import ShardError
from distill_mtl.files import remove_half_made, write_text
from distill_mtl.reading import Remedy, fit, loads, read_text
from distill_mtl.system_errors import naming
from distill_mtl.tasks.label import LabelCounts, NumberStats

_VERSION = 2  # 1 counted labels in another form
_NUMBERS = len(fields(NumberStats))
_LONGEST = 1 << 30  # bytes of a plan: every skipped row has its name in it
_AGAIN = Remedy("Write the shards again with --overwrite, or choose another --to or --name.", ShardError)


class _LabelCountsNote(TypedDict):
    rows: int
    labelled: int
    counts: dict[str, dict[str, int]]
    numbers: dict[str, Annotated[list[float], Field(min_length=_NUMBERS, max_length=_NUMBERS)]]


class _CountsNote(TypedDict):
    rows: int
    sizes: dict[Annotated[str, Field(pattern=r"^\d{1,9}x\d{1,9}$")], int]
    labels: dict[str, _LabelCountsNote]


class _FinishedLine(TypedDict):
    """What `_line` writes."""

    shard: str
    size: int
    next: NonNegativeInt
    counts: _CountsNote
    skipped: list[str]


@dataclass
class RowCounts:
    """Counts over some rows.

    Attributes:
        rows: how many.
        sizes: "WIDTHxHEIGHT" of the pictures -> rows.
        labels: member -> what its labels say.
    """

    rows: int = 0
    sizes: Counter[str] = field(default_factory=Counter)
    labels: dict[str, LabelCounts] = field(default_factory=dict)

    def add(self, other: "RowCounts") -> None:
        """Take in the counts of further rows."""
        self.rows += other.rows
        self.sizes.update(other.sizes)
        for member, counts in other.labels.items():
            self.labels.setdefault(member, LabelCounts()).add(counts)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a line of JSON."""
        labels = {member: counts.to_json() for member, counts in self.labels.items()}
        return {"rows": self.rows, "sizes": dict(self.sizes), "labels": labels}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "RowCounts":
        """What `to_json` gave."""
        labels = {member: LabelCounts.from_json(counts) for member, counts in value["labels"].items()}
        return cls(value["rows"], Counter(value["sizes"]), labels)


@dataclass(frozen=True)
class FinishedShard:
    """One finished shard.

    Attributes:
        shard: name of the file.
        size: in bytes.
        next: position in the order of rows that the next shard begins with.
        counts: over its rows.
        skipped: where the rows come from that were left out on the way.
    """

    shard: str
    size: int
    next: int
    counts: RowCounts
    skipped: list[str] = field(default_factory=list)


class ShardPlan:
    """A plan and the shards of it that are finished.

    Args:
        folder: of the shards.
        name: that they begin with.
        plan: everything that decides the bytes of the shards.
        overwrite: delete the shards of this name that are there.

    Attributes:
        finished: in the order of the shards.

    Raises:
        ShardError: there are shards of another plan, or of none; the folder cannot be written to.
    """

    def __init__(self, folder: Path, name: str, plan: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.folder, self.name = folder, name
        self._path = folder / f"{name}.plan.jsonl"
        # As it comes back from the file.
        self._plan = json.loads(json.dumps({"version": _VERSION, **plan}))
        self.finished: list[FinishedShard] = []
        if overwrite:
            self._delete()
        lines = self._lines()
        found = sorted(self._sizes())  # a plan without a shard is replaced
        if lines and found:
            self._refuse_another_plan(lines[0])
            self._take_finished(lines[1:])
        elif found:
            raise ShardError(
                f"{self.place('')}: there are shards called {name} ({found[0]}) without a plan. Choose another --to or "
                "--name, or replace them with --overwrite."
            )
        self._remove_left_overs()
        self._write()

    def shard(self, number: int) -> Path:
        """The path of shard `number`, from 0."""
        return self.folder / f"{self.name}-{number:06d}.tar"

    def place(self, shard: str) -> str:
        """Where a finished shard is."""
        return str(self.folder / shard)

    def next_position(self) -> int:
        """Position in the order of rows that the next shard begins with."""
        return self.finished[-1].next if self.finished else 0

    def add(self, finished: FinishedShard) -> None:
        """Note a shard that is in its place."""
        self.finished.append(finished)
        with naming(self._path, every=True), open(self._path, "a", encoding="utf-8") as file:
            file.write(_line(finished))

    def _lines(self) -> list[dict[str, Any]]:
        """The complete lines of the file; none if it does not exist."""
        if not self._path.exists():
            return []
        lines: list[dict[str, Any]] = []
        for number, text in enumerate(read_text(self._path, _LONGEST, remedy=_AGAIN).split("\n"), 1):
            try:
                value = loads(text)
            except ValueError:
                break
            schema = _FinishedLine if lines else dict[str, Any]
            lines.append(fit(value, schema, f"{self._path}, line {number}", remedy=_AGAIN))
        return lines

    def _refuse_another_plan(self, there: Mapping[str, Any]) -> None:
        other = [key for key in self._plan | dict(there) if self._plan.get(key) != there.get(key)]
        if other:
            words = {"digest": "files or labels", "what": "origin and options"}
            raise ShardError(
                f"{self._path}: the shards called {self.name} are of another plan: other "
                f"{', '.join(words.get(key, key) for key in other)}. Choose another --to or --name (a second set of "
                "the same data: --name test), or replace them with --overwrite."
            )

    def _take_finished(self, lines: list[dict[str, Any]]) -> None:
        """Take the shards that are there as they were finished, up to the first that is not."""
        sizes = self._sizes()
        for number, line in enumerate(lines):
            name = self.shard(number).name
            if line["shard"] != name or sizes.get(name) != line["size"]:
                break
            self.finished.append(FinishedShard(**line | {"counts": RowCounts.from_json(line["counts"])}))

    def _sizes(self) -> dict[str, int]:
        """The shards of this name that are there and what lies beside them: name -> bytes."""
        return {path.name: path.stat().st_size for path in shards_called(self.name, self.folder)}

    def _write(self) -> None:
        write_text(self._path, "".join([json.dumps(self._plan) + "\n", *map(_line, self.finished)]))

    def _delete(self) -> None:
        """The plan first: shards without one are never taken for finished ones."""
        self._path.unlink(missing_ok=True)
        for path in shards_called(self.name, self.folder):
            path.unlink()

    def _remove_left_overs(self) -> None:
        """What killed commands left half-written."""
        name = glob.escape(self.name)
        for names in (f"{name}-{'[0-9]' * 6}.tar", f"{name}-{'[0-9]' * 6}.tar.crc32", f"{name}.plan.jsonl"):
            remove_half_made(self.folder, names)


def shards_called(name: str, folder: Path) -> list[Path]:
    """The shards of a name that are there, and what lies beside them; none where the folder is not there."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if is_shard_of(name, path.name))


def is_shard_of(name: str, file: str) -> bool:
    """Whether a file is a shard that begins with a name, or lies beside one."""
    return re.fullmatch(re.escape(name) + r"-\d{6}\.tar(\.index\.npz|\.crc32)?", file) is not None


def _line(finished: FinishedShard) -> str:
    return json.dumps(vars(finished) | {"counts": finished.counts.to_json()}) + "\n"
