"""Pictures as people name them (files, folders, patterns, shards), in an order that no file system changes."""

import glob
import os
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from distill_mtl.data.index import ShardIndex, load_index, streamed_index
from distill_mtl.data.open_files import OpenFiles
from distill_mtl.data.open_sources import streamed_shards
from distill_mtl.data.shard_files import Shard, expand_braces, find_shards, is_remote
from distill_mtl.data.shard_store import ShardStore
from distill_mtl.data.source import RowMembers
from distill_mtl.demos.built_in import is_built_in
from distill_mtl.errors import UserError
from distill_mtl.folders import walk_folder
from distill_mtl.picture_bytes import MOST_BYTES, PICTURE_ENDINGS
from distill_mtl.reading import read_bytes
from distill_mtl.recipe.schema import SourceSection
from distill_mtl.remote_files import folder_of
from distill_mtl.shards.image_folders import find_files
from distill_mtl.splits import Split

MEMBERS = str(SourceSection.model_fields["image"].default)
_ARCHIVES = (".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True)
class Picture:
    """One picture that is not read yet.

    Attributes:
        key: what its answers are called: a path below the folder that was named, or source/shard/key.
        place: where it lies, for messages.
        read: gives its bytes, in any thread. Raises ValueError, OSError or UserError where it cannot.
        row: gives what it carries in some members; its key there is `place`, which no other picture has.
        endings: the members of its shard.
        file: that holds it on this machine, the picture's own or its shard's; None for a shard that stays in a bucket.
    """

    key: str
    place: str
    read: Callable[[], bytes]
    row: Callable[[Collection[str]], RowMembers]
    endings: frozenset[str] = frozenset()
    file: Path | None = None


@dataclass(frozen=True)
class FoundPictures:
    """What was named.

    Attributes:
        pictures: in the order of the names, of folders in the order of their paths, of shards in their own.
        left_out: what else folders hold -> how many.
    """

    pictures: Sequence[Picture]
    left_out: Mapping[str, int]

    @property
    def endings(self) -> frozenset[str]:
        """The members that pictures of shards have."""
        return frozenset[str]().union(*{picture.endings for picture in self.pictures})

    def members(self, task: str, split: Split | None, members: Collection[str]) -> Iterator[RowMembers]:
        """What the pictures carry in some members, whatever task and set."""
        return (picture.row(members) for picture in self.pictures)


def find_pictures(
    places: Sequence[str], members: str = MEMBERS, *, store: int | None = None
) -> FoundPictures:
    """All pictures that were named.

    Args:
        places: picture files, patterns of them, folders (searched at any depth, for shards where they hold no
            pictures), and shards as a recipe names them: files, patterns, URLs, built-in sets.
        members: file endings of the picture in a shard; the first one found wins.
        store: bytes of the local disk for shards that stay in a bucket; None: they are copied to the cache folder.

    Raises:
        UserError: nothing is there, or a shard is damaged; a URL that is no shard's.
    """
    pictures: list[Picture] = []
    others: Counter[str] = Counter()
    for place in places:
        if os.path.isdir(place):
            found, left = _in_folder(Path(place), members)
            pictures += found
            others += left
        elif is_remote(place) and not place.split("?")[0].endswith(_ARCHIVES):
            raise UserError(
                f"{place}: of a bucket, shards are read, whose names end with .tar: '{folder_of(place)}/*.tar'. "
                "`distill-mtl shards folder PICTURES --to s3://...` writes some; or copy the pictures to this machine."
            )
        elif is_remote(place) and store is not None:
            pictures += _in_bucket(place, store, members)
        elif is_built_in(place) or is_remote(place) or place.endswith(_ARCHIVES):
            pictures += _in_shards(find_shards(place, "predict"), members)
        else:
            pictures += [_file(Path(path), os.path.basename(path)) for path in _files(place)]
    return FoundPictures(pictures, dict(others))


def _in_folder(folder: Path, members: str) -> tuple[list[Picture], Counter[str]]:
    content = walk_folder(folder)
    archives = [str(folder / path) for path in content.ending(_ARCHIVES)]
    if not archives:
        found, others = find_files(folder, PICTURE_ENDINGS)
        return [_file(folder / path, Path(path).as_posix()) for path in found], others
    if loose := next(
        (path for path in content.files if Path(path).suffix.lower()[1:] in PICTURE_ENDINGS), None
    ):
        raise UserError(
            f"{folder} holds shards ({archives[0]}) and pictures ({folder / loose}). Name the shards "
            f"('{folder}/*.tar') or the folder of the pictures."
        )
    return list(_in_shards(find_shards(archives, "predict"), members)), content.left_out


def _files(pattern: str) -> list[str]:
    """A file, or what fits a pattern."""
    if os.path.isfile(pattern):
        return [pattern]
    if os.path.exists(pattern):
        raise UserError(f"{pattern} is a FIFO or a device. Name a picture, a folder or a shard.")
    found = sorted(
        path
        for part in expand_braces(pattern, "predict")
        for path in glob.glob(os.path.expanduser(part))
        if os.path.isfile(path)
    )
    if not found:
        raise UserError(f"{pattern}: there is no such picture, folder or shard.")
    return found


def _file(path: Path, key: str) -> Picture:
    row = RowMembers(str(path), key, Path(str(path)[: -len(key)]).name, {})
    read = partial(read_bytes, path.absolute(), MOST_BYTES)
    return Picture(key, str(path), read, partial(_bare, row), file=path.absolute())


def _in_shards(shards: Sequence[Shard], members: str) -> Iterator[Picture]:
    files = _SharedFiles(None)
    for shard in shards:
        yield from _rows(shard, load_index(shard.path), files, members)


def _in_bucket(pattern: str, limit: int, members: str) -> Iterator[Picture]:
    """The rows of shards that come when they are read, and may go again."""
    shards, store = streamed_shards("predict", limit, {"test": (pattern, "images")})
    files = _SharedFiles(store)
    for shard in shards["test"]:
        yield from _rows(shard, streamed_index(shard, "predict")[0], files, members)


def _rows(shard: Shard, index: ShardIndex, files: "_SharedFiles", members: str) -> Iterator[Picture]:
    source = shard.url.partition(":")[0] if is_built_in(shard.url) else _parent(shard)
    endings = frozenset(index.endings)
    columns = [index.endings.index(each) for each in _split(members) if each in index.endings]
    file = shard.path if shard.remote is None else None
    for row, span in enumerate(index.key_spans().tolist()):
        key = index.key(*span)
        read = partial(_member, files, index, row, columns, members)
        place = f"{file or shard.url}, row {key}"
        carried = partial(_carried, files, index, row, RowMembers(place, key, source, {}))
        yield Picture(f"{source}/{shard.name}/{key}", place, read, carried, endings, file)


def _parent(shard: Shard) -> str:
    """The folder of a shard stands for its source, which only a recipe would name."""
    if not is_remote(shard.url):
        return shard.path.absolute().parent.name
    return shard.url.split("?")[0].rstrip("/").split("/")[-2]


def _split(members: str) -> list[str]:
    return [each.strip().lower() for each in members.split(";")]


def _member(
    files: "_SharedFiles", index: ShardIndex, row: int, columns: Sequence[int], members: str
) -> bytes:
    """The first of a row's members that is there."""
    sizes = index.sizes[row, list(columns)]
    present = np.flatnonzero(sizes >= 0)
    if not len(present):
        raise ValueError(
            f"the row has no picture (member {members}); members in the shard: {', '.join(index.endings)}"
        )
    column = columns[int(present[0])]
    return files.read(str(index.path), int(index.offsets[row, column]), int(index.sizes[row, column]))


def _bare(row: RowMembers, members: Collection[str]) -> RowMembers:
    """A picture of its own carries nothing else."""
    return row


def _carried(
    files: "_SharedFiles", index: ShardIndex, row: int, empty: RowMembers, members: Collection[str]
) -> RowMembers:
    """The row with those of some members that it has."""
    found = {}
    for member in members:
        column = index.endings.index(member) if member in index.endings else None
        if column is not None and index.sizes[row, column] >= 0:
            place = int(index.offsets[row, column]), int(index.sizes[row, column])
            found[member] = files.read(str(index.path), *place)
    return empty._replace(members=found)


class _SharedFiles:
    """Open files for several threads: one may not close what another reads. A copy elsewhere has a lock of its own."""

    def __init__(self, store: ShardStore | None) -> None:
        self._files, self._lock = OpenFiles(store), threading.Lock()

    def __getstate__(self) -> OpenFiles:
        return self._files

    def __setstate__(self, files: OpenFiles) -> None:
        self._files, self._lock = files, threading.Lock()

    def read(self, path: str, offset: int, size: int) -> bytes:
        with self._lock:
            return self._files.read(path, offset, size)
