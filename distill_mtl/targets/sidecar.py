"""The file format of the target cache: one safetensors file beside a shard, docs/target-cache.md.

It is written a block of rows at a time, without ever being whole in memory, and read through a memory
map. Any reader of safetensors opens it. Nothing here knows what the numbers mean.
"""

import errno
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from distill_mtl.errors import CacheError
from distill_mtl.files import atomic_file
from distill_mtl.reading import loads, open_regular, shown

_NAMES = {"float16": "F16", "float32": "F32", "int8": "I8", "uint8": "U8", "uint16": "U16", "int32": "I32"}
_TYPES = {short: np.dtype(long) for long, short in _NAMES.items()}
_LONGEST_HEADER = 100_000_000  # safetensors' own limit
_METADATA = "__metadata__"


@dataclass(frozen=True)
class Slot:
    """Type and shape of a tensor, or of one row of it."""

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """In bytes."""
        return self.dtype.itemsize * math.prod(self.shape)


@dataclass(frozen=True)
class _Place:
    slot: Slot
    start: int  # in the file


class Writer:
    """Fills a new sidecar row by row; `write_sidecar` makes it.

    Args:
        path: where it will appear, for messages.
        file: open for writing, as long as it will be.
        metadata: of the header.
        tensors: name -> type and whole shape, rows first.
        hashed: names of the tensors whose bytes the header carries a hash of.
    """

    def __init__(
        self,
        path: Path,
        file: BinaryIO,
        metadata: Mapping[str, str],
        tensors: Mapping[str, Slot],
        hashed: Sequence[str],
    ) -> None:
        self._path = path
        self._file, self._metadata, self._tensors = file, metadata, tensors
        self._hashes = {name: hashlib.sha256() for name in hashed}
        self._places = _places(len(self._header()), tensors)
        self._rows = 0

    def put(self, arrays: Mapping[str, NDArray]) -> None:
        """The next rows: for every tensor an array [R, ...] of its type.

        Raises:
            CacheError: they cannot be written.
        """
        if arrays.keys() != self._places.keys():
            raise ValueError(f"expected the tensors {sorted(self._places)}, found {sorted(arrays)}")
        rows = len(next(iter(arrays.values())))
        for name, place in self._places.items():
            array, (whole, *row) = arrays[name], place.slot.shape
            if array.dtype != place.slot.dtype or array.shape != (rows, *row) or self._rows + rows > whole:
                raise ValueError(f"{name}: {array.dtype} {array.shape} does not fit {place.slot}")
            content = np.ascontiguousarray(array).tobytes()
            with _naming(self._path):
                self._file.seek(place.start + self._rows * (place.slot.size // whole))
                self._file.write(content)
            if name in self._hashes:
                self._hashes[name].update(content)
        self._rows += rows

    def finish(self) -> None:
        """Write the header, once every row is there.

        Raises:
            CacheError: it cannot be written.
        """
        missing = next(iter(self._places.values())).slot.shape[0] - self._rows
        if missing:
            raise ValueError(f"{missing} rows were never put")
        with _naming(self._path):
            self._file.seek(0)
            self._file.write(self._header())

    def _header(self) -> bytes:
        hashes = {hash_of(name): hashed.hexdigest() for name, hashed in self._hashes.items()}
        return _header({**self._metadata, **hashes}, self._tensors)


@contextmanager
def write_sidecar(
    path: Path, metadata: Mapping[str, str], tensors: Mapping[str, Slot], hashed: Sequence[str] = ()
) -> Iterator[Writer]:
    """A sidecar in the making, which appears at `path` when the block ends well, whole or not at all.

    Args:
        path: the file; an earlier one is replaced.
        metadata: text by name.
        tensors: name -> type and whole shape, rows first; at least one row.
        hashed: tensors whose bytes get a hash in the header, under `hash_of(name)`.

    Raises:
        CacheError: there is no room, or the folder cannot be written to.
    """
    with _naming(path), atomic_file(path, durable=True) as file:
        _reserve(file, sidecar_size(metadata, tensors, hashed))
        writer = Writer(path, file, metadata, tensors, hashed)
        yield writer
        writer.finish()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """What the operating system says becomes a message that names the file and the remedy."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "Make room, or cache less (targets.views, targets.features), and run" if full else "Run"
        raise CacheError(
            f"{path} cannot be written ({error.strerror}). Finished shards are kept. {remedy} the same command again "
            "to go on."
        ) from None


def hash_of(tensor: str) -> str:
    """The key of a header's metadata that holds the SHA-256 of a tensor's bytes."""
    return f"{tensor}.sha256"


def sidecar_size(metadata: Mapping[str, str], tensors: Mapping[str, Slot], hashed: Sequence[str] = ()) -> int:
    """Bytes of the file."""
    header = _header({**metadata, **{hash_of(name): "0" * 64 for name in hashed}}, tensors)
    return len(header) + sum(slot.size for slot in tensors.values())


class Sidecar:
    """A finished sidecar, mapped into memory when a row is first asked for.

    A copy in another process (a DataLoader's worker) maps the file itself.

    Args:
        path: of the file.

    Attributes:
        metadata: text by name.
        tensors: name -> type and whole shape.

    Raises:
        CacheError: the file is missing, cut, or no sidecar.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open_regular(path) as file:
                self.size = os.fstat(file.fileno()).st_size
                entries, start = _read_header(file, self.size)
        except OSError as error:
            raise CacheError(f"{path} cannot be read ({error.strerror}).") from None
        except ValueError as error:
            raise CacheError(f"{path} is cut, damaged or no sidecar: {error}") from None
        self.metadata: dict[str, str] = entries.pop(_METADATA, None) or {}
        self._places = {
            name: _Place(
                Slot(_TYPES[entry["dtype"]], tuple(entry["shape"])), start + entry["data_offsets"][0]
            )
            for name, entry in entries.items()
        }
        self._mapped: dict[str, NDArray] | None = None

    @property
    def tensors(self) -> dict[str, Slot]:
        """Name -> type and whole shape."""
        return {name: place.slot for name, place in self._places.items()}

    def array(self, name: str) -> NDArray:
        """One tensor, read-only; its pages are read from the disk when they are touched.

        Raises:
            CacheError: the file is gone or has shrunk.
        """
        if self._mapped is None:
            self._mapped = self._map()
        return self._mapped[name]

    def _map(self) -> dict[str, NDArray]:
        """Every tensor by name. Not np.memmap, which keeps a file open for each of a thousand shards."""
        try:
            whole = torch.from_file(str(self.path), shared=False, size=self.size, dtype=torch.uint8).numpy()
        except RuntimeError as error:
            raise CacheError(f"{self.path} was changed while it was in use ({error}).") from None
        whole.flags.writeable = False
        return {
            name: whole[place.start : place.start + place.slot.size]
            .view(place.slot.dtype)
            .reshape(place.slot.shape)
            for name, place in self._places.items()
        }

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": None}


def _header(metadata: Mapping[str, str], tensors: Mapping[str, Slot]) -> bytes:
    """Length and JSON, filled up so that the data begin at a multiple of 8."""
    entries: dict[str, Any] = {_METADATA: dict(sorted(metadata.items()))}
    for name, place in _places(0, tensors).items():
        entries[name] = {
            "dtype": _NAMES[place.slot.dtype.name],
            "shape": list(place.slot.shape),
            "data_offsets": [place.start, place.start + place.slot.size],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _places(start: int, tensors: Mapping[str, Slot]) -> dict[str, _Place]:
    """Where each tensor begins: the widest types first, so that every number is aligned."""
    places = {}
    for name in sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name)):
        places[name] = _Place(tensors[name], start)
        start += tensors[name].size
    return places


def _reserve(file: BinaryIO, size: int) -> None:
    """Reserve the disk space before the work, if the file system can, so that a full disk fails now."""
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        file.truncate(size)


def _read_header(file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """The header's entries and where the data begin. Raises ValueError, with a text, unless the file is complete."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, _LONGEST_HEADER):
        raise ValueError(f"it ends after {size} bytes, inside its header")
    try:
        entries = loads(file.read(length))
        data = 0
        for name in sorted(entries.keys() - {_METADATA}, key=lambda name: entries[name]["data_offsets"]):
            if entries[name]["dtype"] not in _TYPES:
                raise ValueError(f"it holds numbers of type {entries[name]['dtype']}, as no sidecar does")
            shape = tuple(entries[name]["shape"])
            if not all(type(side) is int and side >= 0 for side in shape):
                raise ValueError(f"the tensor {shown(name)} has no shape")
            slot = Slot(_TYPES[entries[name]["dtype"]], shape)
            if entries[name]["data_offsets"] != [data, data + slot.size]:
                raise ValueError(f"the tensor {name} lies where it cannot")
            data += slot.size
        if not all(isinstance(text, str) for text in (entries.get(_METADATA) or {}).values()):
            raise ValueError("its metadata are not text")
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"its header is invalid ({error or type(error).__name__})") from None
    if size != 8 + length + data:
        raise ValueError(f"it has {size} bytes and should have {8 + length + data}")
    return entries, 8 + length
