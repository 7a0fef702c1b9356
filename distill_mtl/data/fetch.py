"""Shards that cannot be read by offset where they lie (remote, or compressed) come to the local cache.

Each process of a machine fetches its share and waits for the others'; a file appears whole or not at
all, so a stopped run leaves nothing half-made behind and the next one goes on.
"""

import gzip
import hashlib
import logging
import re
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec

from distill_mtl.errors import ShardError
from distill_mtl.files import atomic_file, cache_folder, wait_for

_log = logging.getLogger(__name__)
_CHUNK = 1 << 22


def is_remote(url: str) -> bool:
    """Whether a pattern is a URL for fsspec, not a path."""
    return re.match(r"[a-z][a-z0-9+.-]+:(:|//)", url, re.IGNORECASE) is not None and not url.startswith(
        "file://"
    )


def remote_matches(pattern: str, place: str) -> list[str]:
    """The URLs that a remote pattern (only `*` counts) stands for; none where nothing is there.

    Raises:
        ShardError: the URL's kind is unknown, needs a package that is not installed, or does not answer.
    """
    system, path = _system(pattern, place)
    try:
        if "*" in path:
            return [system.unstrip_protocol(match) for match in sorted(system.glob(path))]
        return [pattern] if system.exists(path) else []
    except OSError as error:
        raise ShardError(f"{place}: {pattern} cannot be listed ({error}).") from None


def bring(
    urls: Sequence[str], place: str, local_rank: int, local_world: int, *, patience: float = 300.0
) -> list[Path]:
    """Local, uncompressed tar files for paths and URLs, in their order.

    Args:
        urls: existing files. A local `.tar` stays where it is.
        place: dotted path in the recipe, for messages.
        local_rank, local_world: this process among those of this machine.
        patience: seconds without any progress after which another process is given up.

    Raises:
        ShardError: a shard cannot be fetched or unpacked, or the process whose share it is made no progress.
    """
    paths = [_cached(url, place) if _must_move(url) else Path(url) for url in urls]
    moving = [(url, path) for url, path in zip(urls, paths, strict=True) if _must_move(url)]
    mine = [(url, path) for url, path in moving[local_rank::local_world] if not path.exists()]
    if mine:
        _log.info("%s: bringing %d shards to %s", place, len(mine), mine[0][1].parent)
    for url, path in mine:
        _fetch(url, path, place)
    for url, path in moving:
        wait_for(path, f"{place}: {url}", patience)
    return paths


def _must_move(url: str) -> bool:
    return is_remote(url) or _compressed(url)


def _compressed(url: str) -> bool:
    return url.split("?")[0].endswith((".gz", ".tgz"))


def _system(url: str, place: str) -> tuple[Any, str]:
    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ShardError(f"{place}: {url} cannot be read: {error}.") from None
    return system, path


def _cached(url: str, place: str) -> Path:
    """Where a shard stands in the cache; its state there (size, time or tag, where known) is in the name."""
    system, path = _system(url, place)
    try:
        state = system.ukey(path)
    except OSError as error:
        raise ShardError(f"{place}: {url} cannot be read ({error}).") from None
    identity = f"{system.unstrip_protocol(path)} {state}"
    digest = hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
    return cache_folder() / "shards" / f"{digest}.tar"


def _fetch(url: str, target: Path, place: str) -> None:
    system, path = _system(url, place)
    try:
        with atomic_file(target) as local, system.open(path, "rb") as remote:
            source = gzip.GzipFile(fileobj=remote) if _compressed(url) else remote
            shutil.copyfileobj(source, local, _CHUNK)
    except (OSError, EOFError, zlib.error) as error:
        raise ShardError(f"{place}: {url} could not be brought to {target.parent} ({error}).") from None
