"""One data set of a recipe: its rows over all shards, where their members lie, and the three sets.

Members are read by offset, through few open files.
"""

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from distill_mtl.data.batch import ALONE, Integers, ProcessShare
from distill_mtl.data.checksums import is_intact
from distill_mtl.data.index import ShardIndex, load_index
from distill_mtl.data.shard_files import Shard, find_shards, shard_names
from distill_mtl.errors import ShardError
from distill_mtl.recipe.schema import SourceSection
from distill_mtl.splits import SPLITS, Split, split_by_hash

_GROUP = "group"
_EXAMPLES = 3  # rows named in a message
_MOST = 128  # open files


@dataclass(frozen=True)
class Column:
    """One member of every row of a source.

    Attributes:
        member: its file ending, or several with `;` between them, of which the first found wins.
        offsets: int64 [N] in the row's shard, in bytes.
        sizes: int64 [N] in bytes; -1 where the row has none.
    """

    member: str
    offsets: Integers
    sizes: Integers


@dataclass(frozen=True)
class ShardRows:
    """The rows of a set that lie in one shard, and what says that shard and rows are still the same.

    Attributes:
        path: the tar file on this machine.
        rows: int64 [N], numbers in the source, in the order of the shard.
        size: of the file in bytes.
        pictures: SHA-256 of where the rows' pictures lie in it, in their order.
        keys: SHA-256 of the rows' keys, in their order.
    """

    path: Path
    rows: Integers
    size: int
    pictures: str
    keys: str


class RowMembers(NamedTuple):
    """What a row carries beside picture and labels.

    Attributes:
        key: its identity, "source/shard/key".
        name: its key in the shard.
        source: name of its data set.
        group: what it shares with others, or its identity.
        members: member -> its bytes, of those that were asked for and that it has.
    """

    key: str
    name: str
    source: str
    group: str
    members: dict[str, bytes]


class Source:
    """A data set whose shards are found, whole and indexed, and whose rows have all they need.

    Rows are numbered through all shards: training, validation, test, each in the recipe's order.

    Args:
        name: in the recipe.
        section: of the recipe.
        members: task -> member, for every task that the source has labels for.
        shards: of each set.
        local: this process among those of this machine, which share the indexing.
        cut: sets without shards are cut from the training shards, even if there are no labels.

    Attributes:
        sets: split -> int64 numbers of its rows, ascending.
        hashed: the sets that were cut from the training shards by a hash of the key.
        image: the picture of every row.
        labels: task -> its label in every row.
        shown: bool [N], whether the labels of a row may be seen; `keep_labels` hides some.
        groups: the member with what rows have in common.

    Raises:
        ShardError: a shard stands in two sets, is damaged, or has rows without a picture or a label.
    """

    def __init__(
        self,
        name: str,
        section: SourceSection,
        members: Mapping[str, str],
        shards: Mapping[Split, Sequence[Shard]],
        *,
        local: ProcessShare = ALONE,
        cut: bool = False,
    ) -> None:
        self.name, self.section, self._cut = name, section, cut
        listed = [shard for split in SPLITS for shard in shards[split]]
        self.shards = shard_names([shard.url for shard in listed], f"data.{name}")
        self._indexes = _load_all(listed, local)
        lengths = [len(index) for index in self._indexes]
        self._key_spans = np.concatenate([index.key_spans() for index in self._indexes])
        self._shard = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        self._paths = [str(shard.path) for shard in listed]
        self._homes = [split for split in SPLITS for _ in shards[split]]
        self._files = OpenFiles()
        self.image = self._column(section.image)
        self.labels = {task: self._column(member) for task, member in members.items()}
        self.groups = self._column(_GROUP)
        self._refuse_incomplete_rows()
        home = np.repeat([SPLITS.index(split) for split in SPLITS for _ in shards[split]], lengths)
        self.hashed = self._missing_sets(shards)
        if self.hashed:
            train = np.flatnonzero(home == SPLITS.index("train"))
            # By the files' own names: shards may move to another folder, and every row stays in its set.
            names = [shard.name for shard in listed]
            home[train] = split_by_hash(self._identities(train, names), self.hashed)
        self.sets: dict[Split, Integers] = {
            split: np.flatnonzero(home == number) for number, split in enumerate(SPLITS)
        }
        self.shown = np.ones(len(self), np.bool_)
        if section.shards is not None and not len(self.sets["train"]):
            raise ShardError(
                f"data.{name}: no row is left for training. Give validation and test sets their shards."
            )

    def __len__(self) -> int:
        return len(self._shard)

    def keep_labels(self, rows: Integers) -> None:
        """Let these training rows alone show their labels; the others become an unlabelled pool."""
        self.shown[self.sets["train"]] = False
        self.shown[rows] = True

    def shown_rows(self, split: Split) -> Integers:
        """The rows of a set whose labels may be seen, if the source has any, ascending."""
        rows = self.sets[split]
        return rows[self.shown[rows]]

    def keys(self, rows: Sequence[int]) -> list[str]:
        """The rows' identities, "source/shard/key"."""
        return self._identities(rows, self.shards)

    @property
    def endings(self) -> frozenset[str]:
        """The members that rows have, each in one shard at least."""
        return frozenset(ending for index in self._indexes for ending in index.endings)

    def members(self, rows: Integers, members: Collection[str]) -> Iterator[RowMembers]:
        """What rows carry in some members.

        Args:
            rows: of the source.
            members: their file endings.
        """
        columns = {member: self._column(member) for member in sorted(members)}
        for row, key in zip(rows.tolist(), self.keys(rows.tolist()), strict=True):
            there = {member: column for member, column in columns.items() if column.sizes[row] >= 0}
            found = {member: self.payloads(column, np.array([row]))[0] for member, column in there.items()}
            yield RowMembers(key, self._name(row), self.name, self.group(row), found)

    def paths(self, split: Split) -> list[Path]:
        """The shards that rows of a set lie in."""
        return [Path(self._paths[shard]) for shard in np.unique(self._shard[self.sets[split]])]

    def by_shard(self, split: Split) -> list[ShardRows]:
        """The rows of a set, shard by shard; shards without any are left out."""
        rows = self.sets[split]
        borders = np.flatnonzero(np.diff(self._shard[rows])) + 1
        parts = np.split(rows, borders) if len(rows) else []
        return [self._shard_rows(int(self._shard[part[0]]), part) for part in parts]

    def whole_shards(self) -> list[tuple[Split, Path, Integers]]:
        """Every shard: the set that the recipe names it in, its file, and all its rows."""
        borders = np.flatnonzero(np.diff(self._shard)) + 1
        parts = np.split(np.arange(len(self)), borders)
        return [(self._homes[(n := int(self._shard[rows[0]]))], Path(self._paths[n]), rows) for rows in parts]

    def payloads(self, column: Column, rows: Integers) -> list[bytes]:
        """One member of rows that all have it, as it stands in the shards."""
        wheres = zip(
            self._shard[rows].tolist(),
            column.offsets[rows].tolist(),
            column.sizes[rows].tolist(),
            strict=True,
        )
        paths, read = self._paths, self._files.read
        return [read(paths[shard], offset, size) for shard, offset, size in wheres]

    def damaged(self, row: int) -> list[str]:
        """The members of a row, whatever they are for, that do not have their checksum."""
        shard = int(self._shard[row])
        index = self._indexes[shard]
        place = row - int(np.searchsorted(self._shard, shard))
        known = np.flatnonzero((index.sizes[place] >= 0) & (index.checksums[place] >= 0)).tolist()
        path = self._paths[shard]
        return [
            index.endings[column]
            for column in known
            if not is_intact(
                self._files.read(path, int(index.offsets[place, column]), int(index.sizes[place, column])),
                int(index.checksums[place, column]),
            )
        ]

    def checksums(self) -> int:
        """How many rows have checksums of all their members."""
        return sum(
            int(((index.checksums >= 0) | (index.sizes < 0)).all(axis=1).sum()) for index in self._indexes
        )

    def group(self, row: int) -> str:
        """What the row shares with others, or its own identity."""
        if self.groups.sizes[row] < 0:
            return self.keys([row])[0]
        payload = self.payloads(self.groups, np.array([row]))[0]
        return payload.decode(errors="replace").strip()

    def after(self, row: int) -> int:
        """The next training row; the first one after the last."""
        rows = self.sets["train"]
        return int(rows[np.searchsorted(rows, row, side="right") % len(rows)])

    def place(self, column: Column, row: int) -> str:
        """Where a member stands, for messages: source, shard, key and member."""
        path = self._paths[self._shard[row]]
        return f"data.{self.name}: {path}, row {self._name(row)}, member {column.member}"

    def _name(self, row: int) -> str:
        """The row's key in its shard."""
        return self._indexes[self._shard[row]].key(*self._key_spans[row])

    def _shard_rows(self, shard: int, rows: Integers) -> ShardRows:
        index, spans = self._indexes[shard], self._key_spans[rows]
        # Lengths first, so that no two lists of keys are the same text.
        keys = hashlib.sha256((spans[:, 1] - spans[:, 0]).astype("<i8").tobytes())
        keys.update(b"".join([index.key_text[start:end] for start, end in spans.tolist()]))
        pictures = np.stack([self.image.offsets[rows], self.image.sizes[rows]]).astype("<i8")
        return ShardRows(
            path=Path(self._paths[shard]),
            rows=rows,
            size=os.stat(self._paths[shard]).st_size,
            pictures=hashlib.sha256(pictures.tobytes()).hexdigest(),
            keys=keys.hexdigest(),
        )

    def _column(self, member: str) -> Column:
        columns = [member_column(index, member) for index in self._indexes]
        offsets, sizes = (np.concatenate(part) for part in zip(*columns, strict=True))
        return Column(member, offsets, sizes)

    def _missing_sets(self, shards: Mapping[Split, Sequence[Shard]]) -> frozenset[Split]:
        """The sets to cut by hash; a source without labels keeps all its rows for training unless it is told, and one
        without training shards has nothing to cut from."""
        cut = bool((self.labels or self._cut) and shards["train"])
        return frozenset(split for split in SPLITS[1:] if cut and not shards[split])

    def _identities(self, rows: Sequence[int] | Integers, names: Sequence[str]) -> list[str]:
        """ "source/shard/key" of each row, with the shards called by `names`."""
        numbers = np.asarray(rows, np.int64)
        return [
            f"{self.name}/{names[shard]}/{self._indexes[shard].key(start, end)}"
            for shard, (start, end) in zip(
                self._shard[numbers].tolist(), self._key_spans[numbers].tolist(), strict=True
            )
        ]

    def _refuse_incomplete_rows(self) -> None:
        wanted = {"a picture": self.image} | {
            f"the label of {task}": column for task, column in self.labels.items()
        }
        findings = []
        for what, column in wanted.items():
            lacking = np.flatnonzero(column.sizes < 0)
            if len(lacking):
                keys = self.keys(lacking[:_EXAMPLES].tolist())
                examples = ", ".join(keys + ["…"] * (len(lacking) > _EXAMPLES))
                count = f"{len(lacking)} of {len(self)} rows"
                findings.append(f"{count} lack {what} (member {column.member}): {examples}")
        if findings:
            raise ShardError(
                f"data.{self.name}: {'; '.join(findings)}. Members in the shards: {', '.join(sorted(self.endings))}."
            )


def open_source(
    name: str,
    section: SourceSection,
    members: Mapping[str, str],
    *,
    local: ProcessShare = ALONE,
    cut: bool = False,
) -> Source:
    """Find, fetch and index the shards of one source.

    Args:
        name: in the recipe.
        section: of the recipe.
        members: task -> member, for every task that the source has labels for.
        local: this process among those of this machine.
        cut: as in `Source`.

    Raises:
        ShardError: as `find_shards` and `Source`.
    """
    patterns: dict[Split, tuple[str | list[str] | None, str]] = {
        "train": (section.shards, "shards"),
        "validation": (section.split.validation, "split.validation"),
        "test": (section.split.test, "split.test"),
    }
    shards: dict[Split, list[Shard]] = {}
    for split, (pattern, key) in patterns.items():
        place = f"data.{name}.{key}"
        shards[split] = find_shards(pattern, place, local=local) if pattern else []
    return Source(name, section, members, shards, local=local, cut=cut)


def _load_all(shards: Sequence[Shard], local: ProcessShare) -> list[ShardIndex]:
    """The index of every shard. Each process begins at another one, and finds what the others have made."""
    start = local.rank * len(shards) // local.world
    turned = list(range(start, len(shards))) + list(range(start))
    indexes = {number: load_index(shards[number].path) for number in turned}
    return [indexes[number] for number in range(len(shards))]


def member_column(index: ShardIndex, member: str) -> tuple[Integers, Integers]:
    """Offsets and sizes of the first of the member's endings that each row has."""
    offsets, sizes = np.zeros(len(index), np.int64), np.full(len(index), -1, np.int64)
    for ending in member.lower().split(";"):
        if ending.strip() in index.endings:
            place = index.endings.index(ending.strip())
            use = (sizes < 0) & (index.sizes[:, place] >= 0)
            offsets[use], sizes[use] = index.offsets[use, place], index.sizes[use, place]
    return offsets, sizes


class OpenFiles:
    """Files that stay open between reads; when there are too many, the one opened first is closed.

    Rows come in random order, so no file is likelier than another to be needed again.

    A copy in another process (a DataLoader's worker) begins with none open.
    """

    def __init__(self) -> None:
        self._files: dict[str, int] = {}

    def read(self, path: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on.

        Raises:
            ShardError: the file is gone or ends before.
        """
        try:
            descriptor = self._files.get(path)
            payload = _read_at(self._open(path) if descriptor is None else descriptor, size, offset)
        except OSError as error:
            raise ShardError(f"{path}: cannot be read ({error.strerror}).") from None
        if len(payload) != size:
            raise ShardError(f"{path}: ends before byte {offset + size}; it was changed while it was read.")
        return payload

    def close(self) -> None:
        """Close every file; the next read opens its file again."""
        while self._files:
            os.close(self._files.popitem()[1])

    def _open(self, path: str) -> int:
        if len(self._files) >= _MOST:
            os.close(self._files.pop(next(iter(self._files))))
        self._files[path] = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        return self._files[path]

    def __getstate__(self) -> dict[str, object]:
        return {"_files": {}}

    def __del__(self) -> None:
        self.close()


if hasattr(os, "pread"):
    _read_at = os.pread
else:

    def _read_at(descriptor: int, size: int, offset: int, /) -> bytes:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, size)
