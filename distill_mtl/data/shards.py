"""From the shard patterns of a recipe to tar files on this machine.

Braces and stars are expanded, every missing shard is named at once, built-in data sets are made, and
shards that cannot be read by offset where they lie are brought to the cache (fetch.py).
"""

import glob
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from braceexpand import braceexpand

from distill_mtl.data import fetch
from distill_mtl.demos import built_in
from distill_mtl.errors import ShardError

_SHOWN = 10


@dataclass(frozen=True)
class Shard:
    """One shard of a source.

    Attributes:
        url: path or URL that the recipe's pattern gave.
        path: the tar file on this machine.
    """

    url: str
    path: Path

    @property
    def name(self) -> str:
        """The file's name without `.tar`: "pets-003"."""
        return _names([self.url], 1)[0]


def find_shards(
    patterns: str | Sequence[str], place: str, *, local_rank: int = 0, local_world: int = 1
) -> list[Shard]:
    """The shards of one set, in the order of the patterns.

    Args:
        patterns: paths, URLs or built-in `NAME:SET-SPLIT`, with `{000..009}`, `{a,b}`, `*`, `?` and `[...]`.
        place: dotted path of the patterns in the recipe, for messages.
        local_rank, local_world: this process among those of this machine, which share the fetching.

    Raises:
        ShardError: shards are missing, given twice, or cannot be fetched; `pipe:` is not read.
    """
    listed = [patterns] if isinstance(patterns, str) else list(patterns)
    urls, missing = [], []
    for pattern in [url for entry in listed for url in expand_braces(entry, place)]:
        found = _matches(pattern, place, local_rank)
        urls += found
        missing += [] if found else [pattern]
    if missing:
        raise ShardError(f"{place}: {_count(missing)} missing: {_list(missing)}.")
    paths = fetch.bring(urls, place, local_rank, local_world)
    return [Shard(url, path) for url, path in zip(urls, paths, strict=True)]


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
        ShardError: a brace without its partner; `pipe:`, which would run a command.
    """
    if pattern.startswith("pipe:"):
        raise ShardError(
            f"{place}: '{pattern}' would run a command. Name the file or its URL instead (s3://, gs://, https://)."
        )
    try:
        return list(braceexpand(pattern))
    except ValueError:
        raise ShardError(f"{place}: '{pattern}' has a brace without its partner.") from None


def _matches(pattern: str, place: str, local_rank: int) -> list[str]:
    """Paths and URLs of one pattern without braces; none where nothing is there."""
    if built_in.is_built_in(pattern):
        return [str(built_in.shard(pattern, place, local_rank))]
    if fetch.is_remote(pattern):
        return fetch.remote_matches(pattern, place)
    pattern = os.path.abspath(os.path.expanduser(pattern.removeprefix("file://")))
    return [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern))


def _names(urls: Sequence[str], depth: int) -> list[str]:
    """The last `depth` parts of each URL, without the ending of an archive."""
    parts = [url.split("?")[0].split("/")[-depth:] for url in urls]
    return [re.sub(r"(\.tar(\.gz)?|\.tgz)$", "", "/".join(part)) for part in parts]


def _count(shards: Sequence[str]) -> str:
    return "1 shard is" if len(shards) == 1 else f"{len(shards)} shards are"


def _list(shards: Sequence[str]) -> str:
    more = f" and {len(shards) - _SHOWN} more" if len(shards) > _SHOWN else ""
    return ", ".join(shards[:_SHOWN]) + more
