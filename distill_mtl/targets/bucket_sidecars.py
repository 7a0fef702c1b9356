"""Sidecars of shards that stay in a bucket: they lie beside them there, and come to the cache folder of a machine.

`distill-mtl cache` sends what it has written; whoever plans a cache fetches what it lacks. A sidecar's name holds the
hash of its identity, so a file of that name is the one that is wanted.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from distill_mtl import remote_files
from distill_mtl.data.source import Source
from distill_mtl.errors import ShardError
from distill_mtl.files import atomic_file, locked
from distill_mtl.remote_files import RemoteFile, folder_of, join
from distill_mtl.targets.plan import SIDECAR_ENDING, Unit, Wanted

_PLACE = "the target cache"
_THREADS = 8
_log = logging.getLogger(__name__)


def bring_sidecars(units: Sequence[Unit]) -> None:
    """Fetch the sidecars of a plan that lie in a bucket and not here; the processes of a machine wait for each other.

    Raises:
        ShardError: the bucket does not answer.
    """
    missing: dict[str, list[Wanted]] = defaultdict(list)
    for unit in units:
        for wanted in unit.files.values():
            if unit.shard.url is None:
                continue
            unit.shard.path.parent.mkdir(parents=True, exist_ok=True)  # where they are written, too
            if not (unit.shard.path.parent / wanted.name).exists():
                missing[folder_of(unit.shard.url)].append(wanted)
    for url, files in missing.items():
        there = remote_files.list_folder(url, _PLACE)
        found = [wanted for wanted in files if wanted.name in there]
        if not found:
            continue
        folder = found[0].shard.path.parent
        with locked(folder / ".lock"):
            left = [there[wanted.name] for wanted in found if not (folder / wanted.name).exists()]
            if left:
                _log.info("fetching %d files of the target cache from %s", len(left), url)
            remote_files.at_once(partial(_fetch, folder), left, _THREADS)


def send_sidecars(unit: Unit, *, may_stay: bool) -> None:
    """Send the sidecars of a shard to where the shard lies.

    Args:
        unit: the shard; nothing is sent where it is not in a bucket.
        may_stay: where that is not allowed they stay on this machine.

    Raises:
        ShardError: they may not stay, and the bucket does not take them.
    """
    if unit.shard.url is None:
        return
    for wanted in unit.files.values():
        with _staying(may_stay):
            _send(wanted)


def send_missing(units: Sequence[Unit], *, may_stay: bool) -> None:
    """Send the sidecars of a plan that lie here and not in their bucket: whoever wrote them was killed before it did.

    Args:
        units: of the plan.
        may_stay: where the bucket does not take them they stay on this machine.

    Raises:
        ShardError: the bucket does not answer, or they may not stay and it does not take them.
    """
    by_folder: dict[str, list[Wanted]] = defaultdict(list)
    for unit in units:
        if unit.shard.url is not None:
            by_folder[folder_of(unit.shard.url)] += unit.files.values()
    for url, files in by_folder.items():
        there = remote_files.list_folder(url, _PLACE)
        left = [one for one in files if one.name not in there and (one.shard.path.parent / one.name).exists()]
        with _staying(may_stay):
            remote_files.at_once(_send, left, _THREADS)


def cached_in_bucket(sources: Sequence[Source], tasks: Sequence[str]) -> bool:
    """Whether a sidecar of one of the tasks lies beside shards in a bucket."""
    folders = {folder_of(url) for source in sources for url in source.urls()}
    names = [name for folder in folders for name in remote_files.list_folder(folder, _PLACE)]
    return any(name.endswith(SIDECAR_ENDING) and f".{task}." in name for name in names for task in tasks)


@contextmanager
def _staying(may_stay: bool) -> Iterator[None]:
    try:
        yield
    except ShardError as error:
        if not may_stay:
            raise
        _log.warning("%s The file stays on this machine.", error)


def _send(wanted: Wanted) -> None:
    assert wanted.shard.url is not None
    to = join(folder_of(wanted.shard.url), wanted.name)
    remote_files.send(wanted.shard.path.parent / wanted.name, to, _PLACE)


def _fetch(folder: Path, file: RemoteFile) -> None:
    with atomic_file(folder / file.name) as to:
        remote_files.fetch(file, to, _PLACE)
