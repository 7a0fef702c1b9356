"""Where the sidecars of a shard lie: beside it, or in the user's cache folder where that is not writable."""

import hashlib
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

from distill_mtl.files import cache_folder, half_made

_ENDING = ".safetensors"
_ABANDONED = 600.0  # seconds without a write, after which whoever wrote a file is taken to be gone


def file_name(shard: Path, task: str, fingerprint: str) -> str:
    """`pets-003.breed.0123456789ab.safetensors`."""
    return f"{_stem(shard)}.{task}.{fingerprint}{_ENDING}"


class Places:
    """The sidecars that there are. Every folder is listed once, since asking for each file of a thousand takes
    long on a network file system.
    """

    def __init__(self) -> None:
        self._listed = cache(_by_shard_and_task)
        self._writable = cache(_writable)

    def find(self, shard: Path, task: str, fingerprint: str) -> Path | None:
        """The sidecar of that name, None where there is none."""
        name = file_name(shard, task, fingerprint)
        return next((path for path in self.all(shard, task) if path.name == name), None)

    def all(self, shard: Path, task: str) -> list[Path]:
        """Every sidecar of this shard and task, whatever recipe it is of."""
        return [
            path for folder in _folders(shard) for path in self._listed(folder).get((_stem(shard), task), ())
        ]

    def to_write(self, shard: Path) -> Path:
        """The folder where new sidecars of the shard go."""
        beside, elsewhere = _folders(shard)
        return beside if self._writable(beside) else elsewhere


def remove_left_overs(folders: Iterable[Path]) -> None:
    """Delete sidecars that killed processes left half-made; what somebody still writes is young."""
    for folder in set(folders):
        with suppress(OSError):
            for part in half_made(folder, f"*{_ENDING}"):
                if time.time() - part.stat().st_mtime > _ABANDONED:
                    part.unlink()


def _folders(shard: Path) -> tuple[Path, Path]:
    digest = hashlib.blake2b(os.fsencode(shard.resolve().parent), digest_size=8).hexdigest()
    return shard.parent, cache_folder() / "targets" / digest


def _stem(shard: Path) -> str:
    return shard.name.removesuffix(".tar")


def _writable(folder: Path) -> bool:
    """Tried, because permissions do not tell: root may write anywhere but to a file system that is read-only."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _by_shard_and_task(folder: Path) -> dict[tuple[str, str], list[Path]]:
    found: dict[tuple[str, str], list[Path]] = defaultdict(list)
    with suppress(OSError):
        for name in sorted(os.listdir(folder)):
            # Neither a task's name nor a fingerprint has a dot in it.
            shard, *named = name.removesuffix(_ENDING).rsplit(".", 2)
            if name.endswith(_ENDING) and len(named) == 2:
                found[shard, named[0]].append(folder / name)
    return found
