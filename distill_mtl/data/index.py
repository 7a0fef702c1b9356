"""The positions of all members of a shard, found once and saved beside the shard; rows are then read by offset.

The index is a NumPy archive without pickle, `<shard>.index.npz`, valid for one size and modification
time of the shard and of its checksums. Where the shard's folder cannot be written to, it goes to the
user's cache folder. What was counted in all labels of a shard is kept in it too.
An index that is stale or unreadable is made again from the shard, which is the truth.

Of a shard that stays in a bucket the index lies beside it there (`distill-mtl shards --to s3://…`, `distill-mtl index`)
and tells size and CRC32 of the whole shard too, so that what is fetched later is known to be what was indexed.
"""

import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from distill_mtl import remote_files
from distill_mtl.data.checksums import SUFFIX, Checksums, checksums_path, read_checksums
from distill_mtl.data.shard_files import Shard
from distill_mtl.data.walk import Row, walk_shard
from distill_mtl.errors import ShardError, brief
from distill_mtl.files import atomic_file, cache_folder
from distill_mtl.reading import DAMAGED_ARRAY, loads, open_regular
from distill_mtl.remote_files import folder_of

_VERSION = 2  # 1 had no checksums, and rows of hidden and system names
_COUNTS, _WHOLE = "label_counts", "whole"
_MOST_COUNTS = 32
_CHUNK = 1 << 22
_SMALL = 64 << 20  # bytes that an index may have; each member takes less than its header in the shard
_UNREADABLE = (
    *(*DAMAGED_ARRAY, KeyError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error),
)


@dataclass(frozen=True)
class ShardIndex:
    """Where the members of a shard's N rows lie.

    Attributes:
        path: the shard, an uncompressed tar archive.
        endings: what follows the first dot of the members' names, E different ones.
        offsets: int64 [N, E] in bytes.
        sizes: int64 [N, E] in bytes; -1 where a row has no such member.
        checksums: int64 [N, E], CRC32 of the members; -1 where it is unknown.
        key_text: the UTF-8 keys without anything between them.
        key_ends: int64 [N], where each key ends in it.
    """

    path: Path
    endings: tuple[str, ...]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    checksums: NDArray[np.int64]
    key_text: bytes
    key_ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.key_ends)

    def key_spans(self) -> NDArray[np.int64]:
        """int64 [N, 2]: where each row's key starts and ends, for `key`."""
        return np.stack([np.append(0, self.key_ends[:-1]), self.key_ends], axis=1)

    def key(self, start: int, end: int) -> str:
        """The key in a span of the text, as the names of the row's members have it."""
        return self.key_text[start:end].decode(errors="surrogateescape")


def load_index(path: Path) -> ShardIndex:
    """The shard's index: the kept one if it fits the shard as it is now, else a new one, which is kept.

    Raises:
        ShardError: the shard is missing, cut, damaged, has no rows, or lacks members that its checksums list.
    """
    try:
        stamp = _stamp(path)
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error.strerror}).") from None
    places = _places(path)
    for place in places:
        if (kept := _read(place, path, stamp)) is not None:
            return kept
    rows, checksums = walk_shard(path), read_checksums(path)
    _refuse_missing_members(path, rows, checksums)
    index = _from_rows(path, rows, checksums)
    for place in places:
        if place.is_symlink() or (place.exists() and not place.is_file()):
            continue  # a folder of others' making must not choose what is replaced, or be waited for
        try:
            _save(place, _to_arrays(index, stamp))
        except OSError:
            continue  # not writable: the next place, or none, and the index is made again next time
        break
    return index


def streamed_index(shard: Shard, place: str) -> tuple[ShardIndex, int]:
    """The index that lies beside a shard in a bucket, and the CRC32 of the shard that it was made for.

    Args:
        shard: streamed, with an index.
        place: who needs it, for messages.

    Raises:
        ShardError: it is of another shard or unreadable, or the bucket does not answer.
    """
    assert shard.remote is not None
    assert shard.index is not None
    again = f"Write it again with `distill-mtl index {folder_of(shard.url)}`."
    content = fetch_index(shard, place)
    try:
        arrays = _unpack(io.BytesIO(content), max(_SMALL, shard.remote.size))
        size, checksum = arrays[_WHOLE].tolist() if _WHOLE in arrays else (None, None)
        if arrays["stamp"][0] != _VERSION or checksum is None:
            raise ValueError("it was made for a shard of this machine")
        if size != shard.remote.size:
            raise ShardError(
                f"{place}: {shard.index.url} was made for a shard of {size:,} bytes, and {shard.url} has "
                f"{shard.remote.size:,}. {again}"
            )
        index = _from_arrays(shard.path, arrays)
        if not _fits(index, size):
            raise ValueError("its numbers do not fit the shard")
    except _UNREADABLE as error:
        raise ShardError(
            f"{place}: {shard.index.url} is no index of a shard ({brief(error)}). {again}"
        ) from None
    return index, checksum


def fetch_index(shard: Shard, place: str) -> bytes:
    """The bytes of the index beside a shard in a bucket, which are kept here from now on.

    Threads may do this at once. They must not parse it: NumPy reads headers as Python's source, and Python 3.11 parses
    in one thread at a time only (SystemError: AST constructor recursion depth mismatch).

    Raises:
        ShardError: the bucket does not answer.
    """
    assert shard.remote is not None
    assert shard.index is not None
    digest = hashlib.blake2b(f"{shard.index.url} {shard.index.state}".encode(), digest_size=12).hexdigest()
    kept = cache_folder() / "indexes" / "streamed" / f"{digest}.npz"
    if kept.is_file():
        return kept.read_bytes()
    size = shard.index.size if shard.index.size >= 0 else None
    content = remote_files.read(shard.index.url, place, max(_SMALL, shard.remote.size), size)
    with suppress(OSError), atomic_file(kept) as file:
        file.write(content)
    return content


def index_to_stream(shard: Path) -> bytes:
    """The index of a shard of this machine, to lie beside it and beside its copy in a bucket. Reads every byte of it.

    Raises:
        ShardError: as `load_index`.
    """
    rows, checksums, whole = walk_shard(shard), read_checksums(shard), 0
    _refuse_missing_members(shard, rows, checksums)
    with open_regular(shard) as file:
        while chunk := file.read(_CHUNK):
            whole = zlib.crc32(chunk, whole)
        found = {}
        for row in rows:
            for ending, (offset, size) in row.members.items():
                file.seek(offset)
                found[row.key, ending] = zlib.crc32(file.read(size))
        size = file.seek(0, io.SEEK_END)
    if damaged := [member for member, checksum in checksums.items() if found[member] != checksum]:
        key, ending = damaged[0]
        raise ShardError(
            f"{shard}: {len(damaged):,} members do not have the checksums in the file {SUFFIX} beside the shard, such "
            f"as {key}.{ending}. Copy or write the shard again."
        )
    arrays = _to_arrays(_from_rows(shard, rows, found), _stamp(shard))
    return _packed({**arrays, _WHOLE: np.array([size, whole], np.int64)})


def has_index_to_stream(shard: Path) -> bool:
    """Whether the index beside a shard of this machine fits it and is one to stream with."""
    try:
        arrays = _arrays(shard.with_name(index_name(shard.name)), shard)
        return _WHOLE in arrays and np.array_equal(arrays["stamp"], _stamp(shard))
    except _UNREADABLE:
        return False


def index_name(shard: str) -> str:
    """The name of the index that lies beside a shard of this name."""
    return f"{shard}.index.npz"


def read_label_counts(path: Path, name: str) -> Any:
    """What `keep_label_counts` kept under this name for the shard as it is now; None if there is nothing."""
    found = _kept_counts(path)
    return None if found is None else found[1].get(name)


def keep_label_counts(path: Path, name: str, counts: Mapping[str, Any]) -> None:
    """Keep in the shard's index what was counted in its labels; nothing where there is no index to keep it in.

    Args:
        path: the shard.
        name: says which labels were counted, and as what. The latest names are kept.
        counts: plain values of JSON.
    """
    found = _kept_counts(path)
    if found is None:
        return
    place, kept = found
    latest = dict([*((each, kept[each]) for each in kept if each != name), (name, counts)][-_MOST_COUNTS:])
    content = _arrays(place, path)
    content[_COUNTS] = np.frombuffer(json.dumps(latest).encode(), np.uint8)
    try:
        _save(place, content)
    except OSError:
        return  # not writable: it is counted again next time


def _kept_counts(path: Path) -> tuple[Path, dict[str, Any]] | None:
    """Where the index of a shard lies, and the counts in it."""
    for place in _places(path):
        try:
            arrays = _arrays(place, path)
            if np.array_equal(arrays["stamp"], _stamp(path)):
                counts = loads(arrays[_COUNTS].tobytes()) if _COUNTS in arrays else {}
                return place, counts if isinstance(counts, dict) else {}
        except _UNREADABLE:
            continue
    return None


def _stamp(path: Path) -> NDArray[np.int64]:
    files = [os.stat(path)]
    with suppress(OSError):
        files.append(os.stat(checksums_path(path)))
    return np.array([_VERSION, *[part for one in files for part in (one.st_size, one.st_mtime_ns)]], np.int64)


def _places(path: Path) -> tuple[Path, Path]:
    name = index_name(path.name)
    folder = hashlib.blake2b(os.fsencode(path.resolve().parent), digest_size=8).hexdigest()
    return path.with_name(name), cache_folder() / "indexes" / folder / name


def _arrays(place: Path, path: Path) -> dict[str, Any]:
    """The arrays of an index, which somebody else may have written.

    Raises:
        one of _UNREADABLE: it is none, or unpacks to more than an index of this shard can have.
    """
    with open_regular(place) as file:
        return _unpack(file, max(_SMALL, os.path.getsize(path)))


def _unpack(file: BinaryIO, most: int) -> dict[str, Any]:
    with zipfile.ZipFile(file) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > most:
            raise ValueError("it is larger than any index of this shard")
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}


def _from_arrays(path: Path, arrays: Mapping[str, Any]) -> ShardIndex:
    endings = tuple(str(ending) for ending in arrays["endings"])
    columns = (arrays["offsets"], arrays["sizes"], arrays["checksums"])
    return ShardIndex(path, endings, *columns, arrays["key_text"].tobytes(), arrays["key_ends"])


def _to_arrays(index: ShardIndex, stamp: NDArray[np.int64]) -> dict[str, Any]:
    return {
        "stamp": stamp,
        "endings": np.array(index.endings),
        "offsets": index.offsets,
        "sizes": index.sizes,
        "checksums": index.checksums,
        "key_text": np.frombuffer(index.key_text, np.uint8),
        "key_ends": index.key_ends,
    }


def _read(place: Path, path: Path, stamp: NDArray[np.int64]) -> ShardIndex | None:
    try:
        arrays = _arrays(place, path)
        if not np.array_equal(arrays["stamp"], stamp):
            return None
        index = _from_arrays(path, arrays)
        return index if _fits(index, int(stamp[1])) else None
    except _UNREADABLE:
        return None


def _fits(index: ShardIndex, size: int) -> bool:
    """Whether the arrays are those of an index, and every member lies inside a shard of so many bytes."""
    ends, offsets, sizes = index.key_ends, index.offsets, index.sizes
    columns = (offsets, sizes, index.checksums)
    if not all(part.dtype == np.int64 for part in (ends, *columns)) or ends.ndim != 1 or not len(ends):
        return False
    if not all(column.shape == (len(ends), len(index.endings)) for column in columns):
        return False
    known = sizes >= 0
    inside = (offsets[known] >= 0) & (offsets[known] <= size) & (sizes[known] <= size - offsets[known])
    return bool(inside.all() and ends[-1] == len(index.key_text) and (np.diff(ends, prepend=0) >= 0).all())


def _save(place: Path, arrays: Mapping[str, Any]) -> None:
    # In memory first: on a full disk NumPy 1.26 leaves a zip file behind that complains when it is collected.
    content = _packed(arrays)
    with atomic_file(place) as file:
        file.write(content)


def _packed(arrays: Mapping[str, Any]) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def _refuse_missing_members(path: Path, rows: list[Row], known: Checksums) -> None:
    """A shard that was cut where zeros follow looks whole, but its checksums name what is missing."""
    missing = set(known)
    for row in rows:
        missing.difference_update((row.key, ending) for ending in row.members)
    if missing:
        key, ending = min(missing)
        raise ShardError(
            f"{path}: {len(missing):,} members are missing that {checksums_path(path).name} lists, such as "
            f"{key}.{ending}. The shard is cut, or was written again by another program. Copy or write both again, or "
            "delete that file."
        )


def _from_rows(path: Path, rows: list[Row], known: Checksums) -> ShardIndex:
    endings = tuple(sorted({ending for row in rows for ending in row.members}))
    column = {ending: place for place, ending in enumerate(endings)}
    offsets = np.zeros((len(rows), len(endings)), np.int64)
    sizes = np.full((len(rows), len(endings)), -1, np.int64)
    checksums = np.full((len(rows), len(endings)), -1, np.int64)
    for number, row in enumerate(rows):
        for ending, (offset, size) in row.members.items():
            offsets[number, column[ending]] = offset
            sizes[number, column[ending]] = size
            checksums[number, column[ending]] = known.get((row.key, ending), -1)
    keys = [row.key.encode(errors="surrogateescape") for row in rows]
    key_ends = np.cumsum([len(key) for key in keys], dtype=np.int64)
    return ShardIndex(path, endings, offsets, sizes, checksums, b"".join(keys), key_ends)
