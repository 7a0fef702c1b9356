"""One pass over a shard's headers that finds every row and does not trust the archive to be whole.

`tarfile` takes a cut header, a cut at a member's border or a flipped byte in a header for the end of the
archive and says nothing (DESIGN 4.25). So this looks at the place where the walk ended: there must be
the zeros that close an archive, and nothing but zeros after them.
"""

import logging
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from distill_mtl.errors import ShardError
from distill_mtl.folders import HIDDEN, is_hidden
from distill_mtl.reading import open_regular

# WebDataset's rule: the key ends at the first dot of the file's name, the rest is the ending.
_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)
_META = re.compile(r"__[^/]*__($|/)")
_END = 2 * tarfile.BLOCKSIZE
_CHUNK = 1 << 20
_log = logging.getLogger(__name__)


@dataclass
class Row:
    """The members of one row: ending -> (offset in the shard, size), in bytes."""

    key: str
    members: dict[str, tuple[int, int]] = field(default_factory=dict)


def walk_shard(path: Path) -> list[Row]:
    """Every row of a tar archive, in order. Members without an ending, and hidden and system ones, belong to no row.

    Raises:
        ShardError: the shard cannot be opened, is cut or damaged, holds a key or a member twice, or no row.
    """
    rows: list[Row] = []
    hidden = 0
    for name, offset, size in _members(path):
        if is_hidden(name):
            hidden += 1
            continue
        match = None if _META.match(name) else _NAME.fullmatch(name)
        if match is None:
            continue
        key, ending = match[1], match[2].lower()
        if not rows or rows[-1].key != key:
            rows.append(Row(key))
        if ending in rows[-1].members:
            raise ShardError(f"{path}: the member {name} occurs twice. Keys must be unique.")
        rows[-1].members[ending] = (offset, size)
    if hidden:
        _log.info("%s: left out %d %s", path, hidden, HIDDEN)
    if not rows:
        raise ShardError(f"{path}: no rows. Members are named KEY.ENDING, such as 000017.jpg and 000017.cls.")
    _refuse_repeated_keys(path, rows)
    return rows


def _members(path: Path) -> Iterator[tuple[str, int, int]]:
    """(name, offset, size) of every regular file in the archive; then the check of its end."""
    count = 0
    try:
        with open_regular(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # it would keep every header
                if member.issparse():
                    raise ShardError(f"{path}: {member.name} is a sparse file, which is not read.")
                if member.isreg():
                    count += 1
                    yield member.name, member.offset_data, member.size
            end = archive.offset
    except (tarfile.TarError, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise ShardError(f"{path}: cannot be read ({error.strerror}).") from None
        _refuse(path, f"{error} after {count} whole members")
    _check_end(path, end, count)


def _check_end(path: Path, end: int, count: int) -> None:
    """The archive is closed by two blocks of zeros, and only zeros follow."""
    with open(path, "rb") as file:
        file.seek(end)
        closing = file.read(_END)
        if len(closing) < _END:
            _refuse(path, f"it ends without an end-of-archive mark after {count} members")
        while closing:
            if closing.count(0) != len(closing):
                _refuse(path, f"{count} members were found before byte {end}, and more data follows there")
            closing = file.read(_CHUNK)


def _refuse(path: Path, finding: str) -> NoReturn:
    raise ShardError(
        f"{path}: the shard is cut or damaged: {finding}. Copy or write it again; rows after that place "
        "would be missing."
    )


def _refuse_repeated_keys(path: Path, rows: list[Row]) -> None:
    repeated = [key for key, count in Counter(row.key for row in rows).items() if count > 1]
    if repeated:
        raise ShardError(
            f"{path}: {len(repeated)} keys come again after other rows, first {repeated[0]}. "
            "The members of a row must follow each other, and a key may stand for one row only."
        )
