"""Files and folders that appear whole or not at all, and the folder where this program keeps what it makes once.

Everything is written beside its place, under a name that `half_made` knows again, and renamed when it is done. A
process that is killed leaves the old content or the new one, never a part of it.
"""

import fnmatch
import glob
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from distill_mtl.errors import ShardError, UserError

_HALF_MADE = re.compile(r"\.(.+)\.\d+-[0-9a-f]{8}\.part", re.DOTALL)
_POLL = 0.1


@contextmanager
def atomic_file(path: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """A new file to write to, which becomes `path` when the block ends well.

    Args:
        path: the file; an earlier one is replaced. Several processes may write the same one.
        durable: what was written survives a power loss too. For what took long to make.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    with _beside(path) as aside:
        with open(aside, "wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(aside, path)
        if durable:
            _to_disk(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with atomic_file(path) as file:
        file.write(text.encode())


@contextmanager
def atomic_folder(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """An empty folder of the same name, which takes the place of `path` when the block ends well.

    Args:
        path: the folder; an earlier one is replaced. One process alone may write it, and what killed ones have
            left of it is removed.
        durable: what was written survives a power loss too.

    Raises:
        OSError: the folder above it cannot be made or written to.
    """
    remove_half_made(path.parent, glob.escape(path.name))
    with _beside(path) as aside:
        aside.mkdir()
        made, earlier = aside / path.name, aside / "earlier version"
        made.mkdir()
        yield made
        if durable:
            for written in (*made.iterdir(), made):
                _to_disk(written)
        if path.exists():
            os.replace(path, earlier)
        try:
            os.replace(made, path)
        except BaseException:
            if earlier.exists():
                os.replace(earlier, path)
            raise
        if durable:
            _to_disk(path.parent)


@contextmanager
def atomic_files(path: Path) -> Iterator[Path]:
    """An empty folder in which the block writes a file of `path`'s name and others that belong to it.

    When the block ends well they all move to where `path` is, that file last.

    Raises:
        OSError: the folder above it cannot be made or written to.
    """
    with _beside(path) as aside:
        aside.mkdir()
        yield aside
        for file in sorted(aside.iterdir(), key=lambda file: file.name == path.name):
            os.replace(file, path.with_name(file.name))


def half_made(folder: Path, names: str) -> list[Path]:
    """What is being written in a folder, or was when its process was killed.

    Args:
        folder: which need not be there.
        names: pattern of the names that they were to get: `*.safetensors`.
    """
    if not folder.is_dir():
        return []
    found = ((path, _HALF_MADE.fullmatch(path.name)) for path in folder.iterdir())
    return [path for path, made in found if made and fnmatch.fnmatchcase(made[1], names)]


def remove_half_made(folder: Path, names: str) -> None:
    """Delete what killed processes have left of files or folders that this process alone writes."""
    for path in half_made(folder, names):
        _delete(path)


def cache_folder() -> Path:
    """$DISTILL_MTL_CACHE, or ~/.cache/distill_mtl."""
    return Path(os.environ.get("DISTILL_MTL_CACHE") or "~/.cache/distill_mtl").expanduser()


def refuse_folder(path: Path, option: str) -> None:
    """Called before the work whose result goes to a file.

    Args:
        path: that will be written.
        option: that named it.

    Raises:
        UserError: it is a folder.
    """
    if path.is_dir():
        raise UserError(f"{option} {path} is a folder. Name a file, such as {option} {path / 'FILE'}.")


def wait_for(target: Path, what: str, patience: float = 300.0) -> None:
    """Return once another process of this machine has made `target`.

    Args:
        target: the file, made with `atomic_file`.
        what: place and name of it, for the message.
        patience: seconds without a byte written in its folder after which the other process is given up.

    Raises:
        ShardError: no progress.
    """
    written, since = -1, time.monotonic()
    while not target.exists():
        if (now := _bytes_in(target.parent)) != written:
            written, since = now, time.monotonic()
        elif time.monotonic() - since > patience:
            raise ShardError(
                f"{what} is being made by another process, which has made no progress for {patience:.0f} s. "
                "Its own message says why; start the command again to continue."
            )
        time.sleep(_POLL)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A free name beside `path`. At the end nothing is left there, nor of the folders that were made for it."""
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        yield aside
    finally:
        _delete(aside)
        for folder in made:
            with suppress(OSError):  # in use by now
                folder.rmdir()


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """Make what was written survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _bytes_in(folder: Path) -> int:
    total = 0
    if folder.exists():
        for entry in os.scandir(folder):
            with suppress(FileNotFoundError):  # renamed since it was listed
                total += entry.stat().st_size
    return total
