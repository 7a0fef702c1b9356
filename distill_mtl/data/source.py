"""One data set of a recipe: its rows over all shards, and the three sets.

Members are read by offset, through few open files.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distill_mtl.data.batch import ALONE, Integers, ProcessShare
from distill_mtl.data.checksums import is_intact
from distill_mtl.data.index import ShardIndex, load_index, streamed_index
from distill_mtl.data.open_files import OpenFiles
from distill_mtl.data.row_table import HeldRows, Homes, RowsOnDemand, RowTable, member_column
from distill_mtl.data.shard_files import Shard, is_remote, shard_names
from distill_mtl.data.shard_store import ShardStore
from distill_mtl.data.windows import RowsByShard
from distill_mtl.errors import ShardError
from distill_mtl.recipe.schema import Recipe, SourceSection
from distill_mtl.splits import SPLITS, Split, split_by_hash

_GROUP = "group"
_EXAMPLES = 3  # rows named in a message


@dataclass(frozen=True)
class ShardRows:
    """The rows of a set that lie in one shard, and what says that shard and rows are still the same.

    Attributes:
        path: the tar file on this machine; of a streamed shard one that is never there, beside which lies what is made
            for it.
        rows: int64 [N], numbers in the source, in the order of the shard.
        size: of the file in bytes.
        pictures: SHA-256 of where the rows' pictures lie in it, in their order.
        keys: SHA-256 of the rows' keys, in their order.
        url: of a streamed shard.
    """

    path: Path
    rows: Integers
    size: int
    pictures: str
    keys: str
    url: str | None = None


class RowMembers(NamedTuple):
    """What a row carries beside picture and labels.

    Attributes:
        key: its identity, "source/shard/key".
        name: its key in the shard.
        source: name of its data set.
        members: member -> its bytes, of those that were asked for and that it has.
    """

    key: str
    name: str
    source: str
    members: dict[str, bytes]


class Source:
    """A data set whose shards are found, whole and indexed, and whose rows have all they need.

    Rows are numbered through all shards: training, validation, test, each in the recipe's order. What is known of each
    row is held for all of them, or under `order: windows` looked up shard by shard (`row_table`).

    Args:
        name: in the recipe.
        section: of the recipe.
        members: task -> member, for every task that the source has labels for.
        shards: of each set.
        local: this process among those of this machine, which share the indexing.
        cut: sets without shards are cut from the training shards, even if there are no labels.
        lanes: of the training stream.
        store: where shards that stay in a bucket come to, when their rows are read.

    Attributes:
        hashed: the sets that were cut from the training shards by a hash of the key.
        endings: the members that rows have, each in one shard at least.
        image: the member with the picture of every row, or several with `;` between them, of which the first found
            wins.
        labels: task -> the member with its label.
        groups: the member with what rows have in common.
        store: as given.

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
        lanes: int = 1,
        store: ShardStore | None = None,
    ) -> None:
        self.name, self.section, self._cut, self.store = name, section, cut, store
        listed = [shard for split in SPLITS for shard in shards[split]]
        self.shards = shard_names([shard.url for shard in listed], f"data.{name}")
        # By the files' own names rows are cut: shards may move to another folder, and every row stays in its set.
        self._file_names = [shard.name for shard in listed]
        self._listed = listed
        self._paths = [str(shard.path) for shard in listed]
        self._homes = [split for split in SPLITS for _ in shards[split]]
        self._files = OpenFiles(store)
        self._kept: Integers | None = None
        self.image, self.labels, self.groups = section.image, dict(members), _GROUP
        self.hashed = self._missing_sets(shards)
        self._table = self._open_table(local, lanes)
        if section.shards is not None and not self.count("train"):
            raise ShardError(
                f"data.{name}: no row is left for training. Give validation and test sets their shards."
            )

    def __len__(self) -> int:
        return len(self._table)

    def count(self, split: Split) -> int:
        """How many rows a set has."""
        return self._table.count(split)

    def rows(self, split: Split) -> Integers:
        """int64: the numbers of a set's rows, ascending."""
        return self._table.rows(split)

    def keep_labels(self, rows: Integers) -> None:
        """Let these training rows alone, ascending, show their labels; the others become an unlabelled pool."""
        self._kept = rows

    def shown_count(self, split: Split) -> int:
        """How many rows of a set `shown_rows` has."""
        return self.count(split) if split != "train" or self._kept is None else len(self._kept)

    def shown_rows(self, split: Split) -> Integers:
        """The rows of a set whose labels may be seen, if the source has any, ascending."""
        return self.rows(split) if split != "train" or self._kept is None else self._kept

    def are_shown(self, rows: Integers) -> NDArray[np.bool_]:
        """bool [R]: whether the labels of each row may be seen."""
        if self._kept is None:
            return np.ones(len(rows), np.bool_)
        return are_among(rows, self._kept) | ~self._table.are_training(rows)

    def rows_by_shard(self, split: Split | None, *, shown: bool = False) -> RowsByShard:
        """The rows of a set, or with None all rows, shard by shard; only those of `shown_rows` if asked for."""
        if split is None:
            firsts, lengths = self._table.firsts, self._table.lengths
            return RowsByShard(lengths, lambda shard: firsts[shard] + np.arange(lengths[shard]))
        return self.labelled_rows() if shown and split == "train" else self._table.by_shard(split)

    def training_rows(self) -> RowsByShard:
        """The training rows, shard by shard."""
        return self._table.by_shard("train")

    def labelled_rows(self) -> RowsByShard:
        """Of the training rows those that show their labels, shard by shard."""
        return self.training_rows() if self._kept is None else self._split(self._kept, kept=True)

    def pool_rows(self) -> RowsByShard:
        """Of the training rows those that hide their labels, shard by shard."""
        return self._split(np.zeros(0, np.int64) if self._kept is None else self._kept, kept=False)

    def keys(self, rows: Sequence[int]) -> list[str]:
        """The rows' identities, "source/shard/key"."""
        found = self._table.keys(np.asarray(rows, np.int64))
        return [f"{self.name}/{self.shards[shard]}/{key}" for shard, key in found]

    def members(self, rows: Integers, members: Collection[str]) -> Iterator[RowMembers]:
        """What rows carry in some members.

        Args:
            rows: of the source.
            members: their file endings.
        """
        for row, (shard, name) in zip(rows.tolist(), self._table.keys(rows), strict=True):
            index, place, path = self._table.index(shard), row - self._table.firsts[shard], self._paths[shard]
            found = {
                member: self._files.read(path, int(index.offsets[place, at]), int(index.sizes[place, at]))
                for at, member in enumerate(index.endings)
                if member in members and index.sizes[place, at] >= 0
            }
            yield RowMembers(f"{self.name}/{self.shards[shard]}/{name}", name, self.name, found)

    def paths(self, split: Split) -> list[Path]:
        """The shards that rows of a set lie in."""
        return [Path(self._paths[shard]) for shard in np.flatnonzero(self._table.by_shard(split).counts)]

    def homes(self, split: Split) -> list[Path]:
        """As `paths`; of streamed shards where what is made for them lies."""
        return [self._listed[shard].home for shard in np.flatnonzero(self._table.by_shard(split).counts)]

    def urls(self) -> list[str]:
        """The shards that stay in a bucket."""
        return [shard.url for shard in self._listed if shard.remote is not None]

    def shard_paths(self) -> list[str]:
        """The file of every shard, by number."""
        return self._paths

    def by_shard(self, split: Split) -> list[ShardRows]:
        """The rows of a set, shard by shard; shards without any are left out."""
        rows = self._table.by_shard(split)
        return [self._shard_rows(shard, rows.of(shard)) for shard in np.flatnonzero(rows.counts).tolist()]

    def whole_shards(self) -> list[tuple[Split, Path, range]]:
        """Every shard: the set that the recipe names it in, its file, and all its rows."""
        spans = zip(self._table.firsts.tolist(), self._table.lengths.tolist(), strict=True)
        rows = [range(first, first + length) for first, length in spans]
        return list(zip(self._homes, map(Path, self._paths), rows, strict=True))

    def payloads(self, member: str, rows: Integers) -> list[bytes]:
        """One member of rows that all have it, as it stands in the shards."""
        return list(self.each_payload(member, rows))

    def each_payload(self, member: str, rows: Integers) -> Iterator[bytes]:
        """As `payloads`, read one after the other when they are taken; where they stand is looked up at once."""
        paths, read = self._paths, self._files.read
        for shard, offset, size in self._table.spans(member, rows):
            yield read(paths[shard], offset, size)

    def damaged(self, row: int) -> list[str]:
        """The members of a row, whatever they are for, that do not have their checksum."""
        shard = int(self._table.shards(np.array([row]))[0])
        index, place, path = self._table.index(shard), row - self._table.firsts[shard], self._paths[shard]
        known = np.flatnonzero((index.sizes[place] >= 0) & (index.checksums[place] >= 0)).tolist()
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
        indexes = map(self._table.index, range(len(self._paths)))
        return sum(int(((index.checksums >= 0) | (index.sizes < 0)).all(axis=1).sum()) for index in indexes)

    def group(self, row: int) -> str:
        """What the row shares with others, or its own identity."""
        ((shard, offset, size),) = self._table.spans(self.groups, np.array([row]))
        if size < 0:
            return self.keys([row])[0]
        return self._files.read(self._paths[shard], offset, size).decode(errors="replace").strip()

    def after(self, row: int) -> int:
        """The next training row; the first one after the last."""
        of_set = self.training_rows()
        shard = int(self._table.shards(np.array([row]))[0])
        if len(later := (mine := of_set.of(shard))[np.searchsorted(mine, row, side="right") :]):
            return int(later[0])
        shards = np.flatnonzero(of_set.counts)
        return int(of_set.of(int(shards[np.searchsorted(shards, shard, side="right") % len(shards)]))[0])

    def place(self, member: str, row: int) -> str:
        """Where a member stands, for messages: source, shard, key and member."""
        ((shard, key),) = self._table.keys(np.array([row]))
        listed = self._listed[shard]
        place = listed.path if listed.remote is None else listed.url
        return f"data.{self.name}: {place}, row {key}, member {member}"

    def _split(self, some: Integers, *, kept: bool) -> RowsByShard:
        """The training rows that are among some of them, or that are not."""
        of_set, firsts = self.training_rows(), self._table.firsts
        borders = np.append(np.searchsorted(some, firsts), len(some))
        counts = np.diff(borders) if kept else of_set.counts - np.diff(borders)

        def of(shard: int) -> Integers:
            mine = some[borders[shard] : borders[shard + 1]]
            return mine if kept else np.setdiff1d(of_set.of(shard), mine, assume_unique=True)

        return RowsByShard(counts, of)

    def _shard_rows(self, shard: int, rows: Integers) -> ShardRows:
        index, places = self._table.index(shard), rows - self._table.firsts[shard]
        spans = index.key_spans()[places]
        # Lengths first, so that no two lists of keys are the same text.
        keys = hashlib.sha256((spans[:, 1] - spans[:, 0]).astype("<i8").tobytes())
        keys.update(b"".join([index.key_text[start:end] for start, end in spans.tolist()]))
        pictures = np.stack([column[places] for column in member_column(index, self.image)]).astype("<i8")
        return ShardRows(
            path=self._listed[shard].home,
            rows=rows,
            size=self._listed[shard].size,
            pictures=hashlib.sha256(pictures.tobytes()).hexdigest(),
            keys=keys.hexdigest(),
            url=None if self._listed[shard].remote is None else self._listed[shard].url,
        )

    def _missing_sets(self, shards: Mapping[Split, Sequence[Shard]]) -> frozenset[Split]:
        """The sets to cut by hash; a source without labels keeps all its rows for training unless it is told, and one
        without training shards has nothing to cut from."""
        cut = bool((self.labels or self._cut) and shards["train"])
        return frozenset(split for split in SPLITS[1:] if cut and not shards[split])

    def _open_table(self, local: ProcessShare, lanes: int) -> RowTable:
        """Look at the index of every shard, and keep it where rows are held. Each process begins at another one, and
        finds what the others have made.

        Raises:
            ShardError: an index cannot be made; rows without a picture or a label.
        """
        members, count = (self.image, *self.labels.values(), self.groups), len(self._paths)
        windows, lacking = is_in_windows(self.section), _Lacking(self.image, self.labels)
        indexes: dict[int, ShardIndex] = {}
        homes: dict[int, Homes] = {}
        lengths, in_sets = np.zeros(count, np.int64), np.zeros((count, len(SPLITS)), np.int64)
        start = local.rank * count // local.world
        for shard in (*range(start, count), *range(start)):
            index = self._load(shard)
            cut = self._cut_shard(shard, index)
            lengths[shard], in_sets[shard] = len(index), np.bincount(cut, minlength=len(SPLITS))
            lacking.look(shard, index)
            if not windows:
                indexes[shard], homes[shard] = index, cut
        lacking.refuse(self.name, self.shards, int(lengths.sum()))
        self.endings = frozenset(lacking.endings)
        if not windows:
            numbers = range(count)
            return HeldRows([indexes[each] for each in numbers], [homes[each] for each in numbers], members)
        parts = 1 if self.section.limit is None else 2
        most = parts * lanes * (self.section.window + 1)
        return RowsOnDemand(self._load, lengths, in_sets, self._cut_shard, members, most)

    def _load(self, shard: int) -> ShardIndex:
        listed = self._listed[shard]
        return (
            load_index(listed.path)
            if listed.remote is None
            else streamed_index(listed, f"data.{self.name}")[0]
        )

    def _cut_shard(self, shard: int, index: ShardIndex) -> Homes:
        """The set of each row of a shard."""
        home = self._homes[shard]
        if home != "train" or not self.hashed:
            return np.full(len(index), SPLITS.index(home), np.int8)
        place = f"{self.name}/{self._file_names[shard]}"
        keys = (index.key(start, end) for start, end in index.key_spans().tolist())
        return split_by_hash((f"{place}/{key}" for key in keys), self.hashed)


class _Lacking:
    """The rows that have no picture or no label.

    Args:
        image: member with the pictures.
        labels: task -> member.

    Attributes:
        endings: of all members that any row has.
    """

    def __init__(self, image: str, labels: Mapping[str, str]) -> None:
        self._wanted = {"a picture": image} | {
            f"the label of {task}": member for task, member in labels.items()
        }
        self._counts, self.endings = dict.fromkeys(self._wanted, 0), set[str]()
        self._examples: dict[str, dict[int, list[str]]] = {what: {} for what in self._wanted}

    def look(self, shard: int, index: ShardIndex) -> None:
        """Note those of a shard."""
        self.endings.update(index.endings)
        for what, member in self._wanted.items():
            places = np.flatnonzero(member_column(index, member)[1] < 0)
            if len(places):
                self._counts[what] += len(places)
                spans = index.key_spans()[places[:_EXAMPLES]].tolist()
                self._examples[what][shard] = [index.key(start, end) for start, end in spans]

    def refuse(self, source: str, shards: Sequence[str], rows: int) -> None:
        """Raise ShardError if there are any.

        Args:
            source: name of the data set.
            shards: names of its shards.
            rows: that it has.
        """
        findings = []
        for what, count in self._counts.items():
            if count:
                found = [
                    f"{source}/{shards[shard]}/{key}"
                    for shard, keys in sorted(self._examples[what].items())
                    for key in keys
                ]
                examples = ", ".join(found[:_EXAMPLES] + ["…"] * (count > _EXAMPLES))
                findings.append(
                    f"{count} of {rows} rows lack {what} (member {self._wanted[what]}): {examples}"
                )
        if findings:
            raise ShardError(
                f"data.{source}: {'; '.join(findings)}. Members in the shards: {', '.join(sorted(self.endings))}."
            )


def settle_order(recipe: Recipe) -> Recipe:
    """The recipe with the order of every data set decided."""
    data = {
        name: section.model_copy(update={"order": "windows" if is_in_windows(section) else "rows"})
        for name, section in recipe.data.items()
    }
    return recipe.model_copy(update={"data": data})


def is_in_windows(section: SourceSection) -> bool:
    """Whether a source's rows are drawn in windows of its shards."""
    if section.order == "auto":
        shards = [section.shards] if isinstance(section.shards, str) else section.shards or []
        return not section.reads_classes and any(map(is_remote, shards))
    return section.order == "windows"


def are_among(rows: Integers, some: Integers) -> NDArray[np.bool_]:
    """bool [R]: which of the rows [R] are among some others, ascending."""
    places = np.searchsorted(some, rows)
    found = np.zeros(len(rows), np.bool_)
    inside = places < len(some)
    found[inside] = some[places[inside]] == rows[inside]
    return found
