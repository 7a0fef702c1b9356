"""The checksums of a shard's members, in a file beside it: `pets-000000.tar.crc32`.

Most formats of pictures would decode to other pixels in silence after a bit has flipped. `distill-mtl shards` writes
the file; the shard's index keeps what it says, `distill-mtl check --deep` and every fetch compare it. It is text:
`crc32 of N members`, then a line for each: CRC32 as eight hexadecimal digits, key and ending, with tabs between them.
Shards without such a file are as good as ever, but damage in them may go unseen.
"""

import zlib
from collections.abc import Mapping
from pathlib import Path

from distill_mtl.errors import ShardError
from distill_mtl.files import write_text
from distill_mtl.reading import read_bytes

SUFFIX = ".crc32"
MOST_BYTES = 1 << 30
"""Of such a file."""
Checksums = Mapping[tuple[str, str], int]
"""(key, ending) of each member -> CRC32 of its bytes."""


def checksums_path(shard: Path) -> Path:
    """Where the checksums of a shard lie."""
    return shard.with_name(shard.name + SUFFIX)


def write_checksums(shard: Path, checksums: Checksums) -> None:
    """Write the file of a shard.

    Raises:
        OSError: it cannot be written.
    """
    lines = [f"{crc:08x}\t{key}\t{ending}\n" for (key, ending), crc in checksums.items()]
    write_text(checksums_path(shard), f"crc32 of {len(lines)} members\n" + "".join(lines))


def parse_checksums(text: bytes, place: str) -> Checksums:
    """What the content of such a file says; nothing where it is another text, as a web server's "not found".

    Args:
        text: the content.
        place: of it, for the message.

    Raises:
        ShardError: it is cut or damaged.
    """
    first, _, rest = text.decode(errors="surrogateescape").partition("\n")
    if not first.startswith("crc32 of "):
        return {}
    checksums = {}
    try:
        for line in rest.splitlines():
            crc, key, ending = line.split("\t")
            checksums[key, ending.lower()] = int(crc, 16)
    except ValueError:
        checksums = {}
    if first != f"crc32 of {len(checksums)} members" or not rest.endswith("\n"):
        raise ShardError(f"{place}: the file of checksums is cut or damaged. Copy it again, or delete it.")
    return checksums


def read_checksums(shard: Path) -> Checksums:
    """Those that lie beside a shard; empty where there are none.

    Raises:
        ShardError: they are cut or damaged, or cannot be read.
    """
    path = checksums_path(shard)
    try:
        return parse_checksums(read_bytes(path, MOST_BYTES), str(path))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error.strerror}). Copy it again, or delete it.") from None


def is_intact(payload: bytes, checksum: int) -> bool:
    """Whether a member has its checksum, or none is known (-1)."""
    return checksum < 0 or zlib.crc32(payload) == checksum
