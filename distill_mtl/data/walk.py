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
from distill_mtl.reading import open_regular, stand_in_note

_META = re.compile(r"__[^/]*__($|/)")
_END = 2 * tarfile.BLOCKSIZE
_CHUNK = 1 << 20
_MOST_CLOSING = 4 << 20
"""Bytes of zeros that close an archive: `tar` fills its last record, of 10 kB if it is not told otherwise."""
_EXTENDED = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)
_MOST_EXTENDED = 128 << 10
"""Bytes of a header that holds a long name or the like. Linux allows 64 kB of extended attributes."""
_LONGEST_NAME = 4096  # Linux' own bound of a path
_MOST_GLOBAL = 1000  # attributes for all members, which tarfile copies for each
_DIGITS = re.compile(rb"[0-9]{1000}")  # tarfile takes the square of the time for each row of digits
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
        # WebDataset's rule: the key ends at the first dot of the file's name, the rest is the ending.
        folder, slash, file_name = name.rpartition("/")
        stem, dot, ending = file_name.partition(".")
        if _META.match(name) or not (stem and dot):
            continue
        key, ending = folder + slash + stem, ending.lower()
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
        with open_regular(path) as file, tarfile.open(fileobj=file, mode="r:", tarinfo=_Header) as archive:
            before = -1
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # it would keep every header
                if member.size < 0 or archive.offset <= before:  # the same members would come for ever
                    raise tarfile.ReadError(f"a member has a size of {member.size:,} bytes")
                if len(member.name) > _LONGEST_NAME:
                    raise tarfile.ReadError(f"a name of {len(member.name):,} letters")
                if len(archive.pax_headers) > _MOST_GLOBAL:
                    raise tarfile.ReadError(f"{len(archive.pax_headers):,} attributes for all members")
                before = archive.offset
                if member.isreg():
                    count += 1
                    yield member.name, member.offset_data, member.size
            end = archive.offset
    except (
        ValueError,
        OverflowError,
        RecursionError,
    ):  # of numbers, texts and nesting that tarfile does not expect
        _refuse(path, f"a header that no program writes, after {count} whole members")
    except (tarfile.TarError, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise ShardError(f"{path}: cannot be read ({error.strerror}).") from None
        _refuse(path, f"{error} after {count} whole members")
    _check_end(path, end, count)


class _Header(tarfile.TarInfo):
    """A header that is looked at before tarfile makes room for what it announces."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        file = archive.fileobj
        assert file is not None
        if self.size < 0 or (self.type in _EXTENDED and self.size > _MOST_EXTENDED):
            raise tarfile.ReadError(f"a header announces {self.size:,} bytes")
        content = b""
        if self.type in _EXTENDED:
            start = file.tell()
            content = file.read(self.size)
            file.seek(start)
        if self.type == tarfile.GNUTYPE_SPARSE or b"GNU.sparse." in content:
            raise tarfile.ReadError("a sparse file, which is not read,")
        if _DIGITS.search(content):
            raise tarfile.ReadError("a header with a number of more than 1,000 digits")
        return super()._proc_member(archive)  # type: ignore[misc]  # documented in its source alone


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
            if file.tell() - end > _MOST_CLOSING:
                _refuse(
                    path,
                    f"{count} members were found before byte {end}, then more zeros than close one",
                )
            closing = file.read(_CHUNK)


def _refuse(path: Path, finding: str) -> NoReturn:
    raise ShardError(
        f"{path}: the shard is cut or damaged: {finding}.{stand_in_note(path)} Copy or write it again; rows after that "
        "place would be missing."
    )


def _refuse_repeated_keys(path: Path, rows: list[Row]) -> None:
    repeated = [key for key, count in Counter(row.key for row in rows).items() if count > 1]
    if repeated:
        raise ShardError(
            f"{path}: {len(repeated)} keys come again after other rows, first {repeated[0]}. "
            "The members of a row must follow each other, and a key may stand for one row only."
        )
