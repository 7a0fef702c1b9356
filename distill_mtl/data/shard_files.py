"""Shard patterns of a recipe to tar files on this machine.

Braces and stars are expanded, every missing shard is named at once, and built-in data sets are made. Shards that
cannot be read by offset where they lie (remote, or compressed) come to the local cache: each process of a machine
fetches its share and waits for the others'.
"""

import glob
import gzip
import hashlib
import logging
import os
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from braceexpand import braceexpand

from distill_mtl.data.batch import ALONE, ProcessShare
from distill_mtl.data.checksums import (
    MOST_BYTES,
    SUFFIX,
    Checksums,
    is_intact,
    parse_checksums,
    write_checksums,
)
from distill_mtl.data.walk import walk_shard
from distill_mtl.demos import built_in
from distill_mtl.errors import ShardError, UserError, brief
from distill_mtl.files import atomic_files, cache_folder, wait_for
from distill_mtl.reading import MAX_DEPTH, shown
from distill_mtl.remote_files import (
    RemoteFile,
    describe,
    describe_all,
    folder_of,
    glob_remote,
    is_remote,
    open_system,
    patiently,
    refuse_no_bucket,
)
from distill_mtl.system_errors import free_bytes, megabytes

MOST_SHARDS = 1_000_000
"""That one pattern may stand for."""
_RANGE = re.compile(r"\{(-?\d{1,4000})\.\.(-?\d{1,4000})(?:\.\.-?\d+)?\}")
_DAMAGED = (FileNotFoundError, gzip.BadGzipFile, zlib.error)  # trying again does not help
_SHOWN = 10  # shards named in a message
_log = logging.getLogger(__name__)
_CHUNK = 1 << 22  # bytes copied at a time
_SMALL, _TIMES = 256 << 20, 200
"""Bytes that any compressed shard may unpack to, and how many times its own size. A tar of labels alone, blocks of
1,024 bytes for a digit each, has been seen at 60; gzip's most is 1,032."""


@dataclass(frozen=True)
class Shard:
    """One shard of a source.

    Attributes:
        url: path or URL that the recipe's pattern gave.
        path: the tar file on this machine; of a streamed shard where it lies while it is here.
        remote: of a streamed shard, as it stands in the bucket.
        index: the file beside a streamed shard that says where its members lie; None where it is missing.
    """

    url: str
    path: Path
    remote: RemoteFile | None = None
    index: RemoteFile | None = None

    @property
    def name(self) -> str:
        """The file's name without `.tar`: "pets-003"."""
        return _names([self.url], 1)[0]

    @property
    def home(self) -> Path:
        """The file beside which lies what is made for this shard; of a streamed one a path in the cache folder."""
        if self.remote is None:
            return self.path
        digest = hashlib.blake2b(folder_of(self.url).encode(), digest_size=8).hexdigest()
        return cache_folder() / "targets" / "streamed" / digest / self.remote.name

    @property
    def size(self) -> int:
        """Of the tar file, in bytes."""
        return os.stat(self.path).st_size if self.remote is None else self.remote.size


def find_shards(patterns: str | Sequence[str], place: str, *, local: ProcessShare = ALONE) -> list[Shard]:
    """The shards of one set, in the order of the patterns.

    Args:
        patterns: paths, URLs or built-in `NAME:SET-SPLIT`, with `{000..009}`, `{a,b}`, `*`, `?` and `[...]`.
        place: dotted path of the patterns in the recipe, for messages.
        local: this process among those of this machine, which share the fetching.

    Raises:
        ShardError: shards are missing, given twice, or cannot be fetched; `pipe:` is not read.
    """
    listed = [patterns] if isinstance(patterns, str) else list(patterns)
    urls, missing = [], []
    for pattern in [url for entry in listed for url in expand_braces(entry, place)]:
        found = _matches(pattern, place, local.rank)
        urls += found
        missing += [] if found else [pattern]
    if missing:
        refuse_no_bucket(missing[0], place)
        raise ShardError(f"{place}: {_count(missing)} missing: {_list(missing)}.")
    paths = bring(urls, place, local)
    return [Shard(url, path) for url, path in zip(urls, paths, strict=True)]


def find_streamed(patterns: str | Sequence[str], place: str) -> list[RemoteFile]:
    """The shards of one set that stay in a bucket, and what lies beside them, in the order of the patterns.

    Args:
        patterns: URLs, with braces and `*`.
        place: dotted path of the patterns in the recipe, for messages.

    Raises:
        ShardError: shards are missing, are not in a bucket, or are compressed; the bucket does not answer.
    """
    listed = [patterns] if isinstance(patterns, str) else list(patterns)
    urls = [url for entry in listed for url in expand_braces(entry, place)]
    if here := [url for url in urls if not is_remote(url)]:
        raise ShardError(
            f"{place}: {shown(here[0])} is not in a bucket, so nothing of it comes to a store. Remove `store` from the "
            "data set; or give the rows of this machine a data set of their own."
        )
    if packed := [url for url in urls if _compressed(url)]:
        raise ShardError(
            f"{place}: {shown(packed[0])} is compressed, and its rows cannot be read by offset. Write it as .tar, or "
            "remove `store`: it is unpacked into the cache before the first step then."
        )
    found: list[RemoteFile] = []
    missing = []
    plain = iter(describe_all([url for url in urls if "*" not in url], place))
    for url in urls:
        matches = glob_remote(url, place) if "*" in url else [one for one in [next(plain)] if one is not None]
        found += matches
        missing += [] if matches else [url]
    if missing:
        refuse_no_bucket(missing[0], place)
        raise ShardError(f"{place}: {_count(missing)} missing: {_list(missing)}.")
    return found


def shard_names(urls: Sequence[str], place: str) -> list[str]:
    """A short name for each shard of a source: the file's own, with as many folders as make all differ.

    Raises:
        ShardError: the same shard stands in the list twice.
    """
    repeated = [url for url, count in Counter(urls).items() if count > 1]
    if repeated:
        raise ShardError(
            f"{place}: {_count(repeated)} named more than once: {_list(repeated)}. "
            "A row may belong to one of training, validation and test only."
        )
    for depth in range(1, 2 + max(url.count("/") for url in urls)):
        names = _names(urls, depth)
        if len(set(names)) == len(urls):
            return names
    return list(urls)


def expand_braces(pattern: str, place: str) -> list[str]:
    """`pets-{000..001}.tar` -> `pets-000.tar`, `pets-001.tar`.

    Raises:
        ShardError: a brace without its partner; too many shards; `pipe:`, which would run a command.
    """
    if pattern.startswith("pipe:"):
        raise ShardError(
            f"{place}: '{pattern}' would run a command. Name the file or its URL instead (s3://, gs://, https://)."
        )
    ranges = (abs(int(end) - int(start)) for start, end in _RANGE.findall(pattern))
    try:
        if pattern.count("{") <= MAX_DEPTH and not any(length >= MOST_SHARDS for length in ranges):
            expanded = list(islice(braceexpand(pattern), MOST_SHARDS + 1))
            if len(expanded) <= MOST_SHARDS:
                return expanded
        raise ShardError(
            f"{place}: {shown(pattern)} stands for more than {MOST_SHARDS:,} shards, or has more than {MAX_DEPTH} "
            "braces. Correct the numbers between the braces, or name the shards with `*`."
        )
    except ValueError:
        raise ShardError(f"{place}: '{pattern}' has a brace without its partner.") from None


def bring(urls: Sequence[str], place: str, local: ProcessShare, *, patience: float = 300.0) -> list[Path]:
    """Local, uncompressed tar files for paths and URLs, in their order.

    Args:
        urls: existing files. A local `.tar` stays where it is.
        place: dotted path in the recipe, for messages.
        local: this process among those of this machine.
        patience: seconds without any progress after which another process is given up.

    Raises:
        ShardError: a shard cannot be fetched or unpacked, or the process whose share it is made no progress.
    """
    paths = [_cached(url, place) if _must_move(url) else Path(url) for url in urls]
    moving = [(url, path) for url, path in zip(urls, paths, strict=True) if _must_move(url)]
    mine = [(url, path) for url, path in moving[local.rank :: local.world] if not path.exists()]
    if mine:
        _log.info("%s: bringing %d shards to %s", place, len(mine), mine[0][1].parent)
    for url, path in mine:
        _fetch(url, path, place)
    for url, path in moving:
        wait_for(path, f"{place}: {url}", patience)
    return paths


def _matches(pattern: str, place: str, local_rank: int) -> list[str]:
    """Paths and URLs of one pattern without braces; none where nothing is there."""
    if built_in.is_built_in(pattern):
        return [str(built_in.shard(pattern, place, local_rank))]
    if is_remote(pattern):
        return _remote_matches(pattern, place)
    pattern = os.path.abspath(os.path.expanduser(pattern.removeprefix("file://")))
    if os.path.isfile(pattern):  # a name may hold signs of a pattern
        return [pattern]
    return [path for path in sorted(glob.glob(pattern)) if os.path.isfile(path)]


def _names(urls: Sequence[str], depth: int) -> list[str]:
    """The last `depth` parts of each URL, without the ending of an archive."""
    parts = [url.split("?")[0].split("/")[-depth:] for url in urls]
    return [re.sub(r"(\.tar(\.gz)?|\.tgz)$", "", "/".join(part)) for part in parts]


def _count(shards: Sequence[str]) -> str:
    return "1 shard is" if len(shards) == 1 else f"{len(shards)} shards are"


def _list(shards: Sequence[str]) -> str:
    more = f" and {len(shards) - _SHOWN} more" if len(shards) > _SHOWN else ""
    return ", ".join(shards[:_SHOWN]) + more


def _remote_matches(pattern: str, place: str) -> list[str]:
    """The URLs that a remote pattern (only `*` counts) stands for; none where nothing is there.

    Raises:
        ShardError: the URL's kind is unknown, needs a package that is not installed, or does not answer.
    """
    if "*" in pattern:
        return [file.url for file in glob_remote(pattern, place)]
    return [pattern] if describe(pattern, place) is not None else []


def _must_move(url: str) -> bool:
    return is_remote(url) or _compressed(url)


def _compressed(url: str) -> bool:
    return url.split("?")[0].endswith((".gz", ".tgz"))


def _cached(url: str, place: str) -> Path:
    """Where a shard stands in the cache; its state there (size, time or tag, where known) is in the name."""
    system, path = open_system(url, place)
    try:
        state = patiently(lambda: system.ukey(path), f"{place}: {shown(url)} cannot be looked at")
    except FileNotFoundError:
        raise ShardError(f"{place}: {shown(url)} is not there any more.") from None
    identity = f"{system.unstrip_protocol(path)} {state}"
    digest = hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
    return cache_folder() / "shards" / f"{digest}.tar"


def _fetch(url: str, target: Path, place: str) -> None:
    what = f"{place}: {shown(url)}"

    def copy(whole: Path) -> None:
        system, path = open_system(url, place)
        with open(whole, "wb") as local, system.open(path, "rb") as remote:
            if _compressed(url):
                _copy(gzip.GzipFile(fileobj=remote), local, what, remote)
            else:
                _copy(remote, local, what)

    try:
        with atomic_files(target) as folder:
            whole = folder / target.name
            if is_remote(url):
                patiently(lambda: copy(whole), f"{what} could not be brought to {target.parent}", _DAMAGED)
            else:
                copy(whole)
            if checksums := _fetched_checksums(url):
                _compare(whole, checksums, f"{place}: {url}")
                write_checksums(whole, checksums)
    except UserError:
        raise
    # A store's client and the unpacking have errors of their own.
    except Exception as error:
        raise ShardError(f"{what} could not be brought to {target.parent} ({brief(error)}).") from None


def _copy(
    source: BinaryIO | gzip.GzipFile, local: BinaryIO, what: str, packed: BinaryIO | None = None
) -> None:
    """Copy a shard, as long as there is room for it; `packed` is the compressed file that `source` unpacks.

    Raises:
        ShardError: it has more bytes than the disk had free, or unpacks to many times its own size.
    """
    (folder, free), written = free_bytes(Path(local.name)), 0
    while chunk := source.read(_CHUNK):
        written += len(chunk)
        if written > free:
            raise ShardError(
                f"{what} has more than {megabytes(free)}{' unpacked' if packed else ''}, which is all that the disk of "
                f"{folder} has free. Make room there, or set DISTILL_MTL_CACHE to a folder on another disk."
            )
        if packed is not None and written > max(_SMALL, _TIMES * packed.tell()):
            raise ShardError(
                f"{what} unpacks to more than {_TIMES} times its size: {megabytes(written)} from its first "
                f"{megabytes(packed.tell())}. Shards are not like that. If it is right, unpack it, and name the .tar."
            )
        local.write(chunk)


def _fetched_checksums(url: str) -> Checksums:
    """Those beside a remote shard; empty where there are none to be had."""
    name, mark, query = url.partition("?")
    beside = re.sub(r"(\.tar\.gz|\.tgz)$", ".tar", name) + SUFFIX + mark + query
    system, path = open_system(beside, beside)
    try:
        with system.open(path, "rb") as file:
            content = file.read(MOST_BYTES)
    except OSError:
        return {}
    return parse_checksums(content, beside)


def _compare(shard: Path, checksums: Checksums, place: str) -> None:
    """Refuse a shard of which a member does not have its checksum, by the rows' names."""
    damaged = []
    try:
        rows = walk_shard(shard)
    except ShardError as error:
        raise ShardError(str(error).replace(str(shard), place)) from None
    with open(shard, "rb") as file:
        for row in rows:
            for ending, (offset, size) in row.members.items():
                file.seek(offset)
                if not is_intact(file.read(size), checksums.get((row.key, ending), -1)):
                    damaged.append(f"{row.key}.{ending}")
    if damaged:
        raise ShardError(
            f"{place}: {len(damaged):,} members are damaged, there or on the way: {_list(damaged)}. "
            f"They do not have the checksums in the file {SUFFIX} beside the shard. Copy or write the shard again."
        )
