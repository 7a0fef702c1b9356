"""Where this program keeps what it makes once, and how a file appears whole or not at all."""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from distill_mtl.errors import ShardError, UserError

_POLL = 0.1


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


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A new path beside `path` to write to; it becomes `path` in one step when the block ends well.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_aside(path: Path, text: str) -> None:
    """Write a text file so that a kill leaves the old one or the new one, never half of it.

    For one process alone; the folder is there.
    """
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


def wait_for(target: Path, what: str, patience: float = 300.0) -> None:
    """Return once another process of this machine has made `target`.

    Args:
        target: the file, made with `written_aside`.
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
                "Its own message says why; start the command again to go on."
            )
        time.sleep(_POLL)


def _bytes_in(folder: Path) -> int:
    total = 0
    if folder.exists():
        for entry in os.scandir(folder):
            with suppress(FileNotFoundError):  # renamed since it was listed
                total += entry.stat().st_size
    return total
