"""Data sets that need no download: made by code on first use, in the cache folder.

A recipe names their shards `NAME:SET-SPLIT`, such as `scenes:depth-train`. A data set is a module that has
the number of rows of each split and makes them; a new one is that module and its line in BUILT_IN.
"""

import importlib
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol, cast

import webdataset
from rich.progress import track

from distill_mtl.display import messages
from distill_mtl.errors import ShardError, nearest
from distill_mtl.files import atomic_file, cache_folder, wait_for
from distill_mtl.splits import SPLITS, Split

BUILT_IN = {"multidigits": "distill_mtl.demos.multidigits", "scenes": "distill_mtl.demos.scenes.scene_rows"}

_PLAIN_SECONDS = 10.0
_log = logging.getLogger(__name__)

Sample = dict[str, str | bytes]


class DataSet(Protocol):
    """What the module of a built-in data set offers.

    Attributes:
        VERSION: changes with the bytes, and the folder with it.
        SETS: names of its sets.
        ROWS: of each split of a set.
    """

    VERSION: int
    SETS: tuple[str, ...]
    ROWS: Mapping[Split, int]

    def samples(self, name: str, split: Split) -> Iterator[Sample]:
        """The rows of one split of one set, the same on every machine."""
        ...


def is_built_in(pattern: str) -> bool:
    """Whether this names shards of a built-in data set."""
    return pattern.partition(":")[0] in BUILT_IN and ":" in pattern


def shard(pattern: str, place: str, local_rank: int = 0) -> Path:
    """The shard that `NAME:SET-SPLIT` names; it is made if it does not exist.

    Args:
        pattern: the name.
        place: dotted path in the recipe, for messages.
        local_rank: of this process; the first one makes the shard, the others wait.

    Raises:
        ShardError: there is no such set or split.
    """
    prefix = pattern.partition(":")[0]
    data = cast(DataSet, importlib.import_module(BUILT_IN[prefix]))
    known = {f"{prefix}:{name}-{split}": (name, split) for name in data.SETS for split in SPLITS}
    if pattern not in known:
        raise ShardError(
            f"{place}: '{pattern}' is unknown.{nearest(pattern, known)} Known: {', '.join(known)}."
        )
    name, split = known[pattern]
    path = cache_folder() / f"{prefix}-{data.VERSION}" / f"{name}-{split}.tar"
    if local_rank > 0:
        wait_for(path, f"{place}: {pattern}")
    elif not path.exists():
        _log.info("making %s in %s (only once)", pattern, path.parent)
        with (
            atomic_file(path) as file,
            webdataset.TarWriter(file, encoder=False, mtime=0) as writer,
        ):
            for sample in _shown(data.samples(name, split), pattern, data.ROWS[split]):
                writer.write(sample)
    return path


def _shown(samples: Iterator[Sample], what: str, total: int) -> Iterator[Sample]:
    """The rows, with a progress bar on a terminal, else a log line every 10 seconds."""
    console = messages()
    if console.is_terminal:
        yield from track(samples, f"making {what}", total, console=console, transient=True)
        return
    start = last = time.monotonic()
    for done, sample in enumerate(samples):
        now = time.monotonic()
        if now - last >= _PLAIN_SECONDS:
            last = now
            left = (now - start) / done * (total - done) if done else 0
            _log.info("making %s: row %d of %d, %.0f s left", what, done, total, left)
        yield sample
