"""Files and folders that appear whole or not at all, and the folder where this program keeps what it makes once.

Everything is written beside its place, under a name that `half_made` knows again, and renamed when it is done. A
process that is killed leaves the old content or the new one, never a part of it, and the next process that writes
there removes what it left. What is not a plain file (a device, a pipe, standard output) is written to directly.
"""

import fcntl
import fnmatch
import glob
import io
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, BinaryIO

from distill_mtl.errors import ShardError, UserError, WriteError
from distill_mtl.reading import Remedy
from distill_mtl.system_errors import free_bytes, megabytes, naming

_HALF_MADE = re.compile(r"\.(.+)\.\d+-[0-9a-f]{8}\.part", re.DOTALL)
_DESCRIPTOR = re.compile(r"/dev/(?:fd/(\d+)|std(in|out|err))|/proc/self/fd/(\d+)")
_BUFFER = 1 << 17
_POLL = 0.1
_YOUNG = 2.0  # seconds, in which a file that was just made is locked for sure
_ROOM = Remedy("Make room there, or name a place on another disk.")


@contextmanager
def atomic_file(path: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """A new file to write to, which becomes `path` when the block ends well.

    Args:
        path: the file; an earlier one is replaced. Several processes may write the same one. Of a link the file that
            it leads to is replaced; a device or a pipe gets what is written at once.
        durable: what was written survives a power loss too. For what took long to make.

    Raises:
        WriteError: the folder cannot be made or written to, or the disk is full.
    """
    with naming(path, every=True):
        direct = _not_a_plain_file(path)
    if direct is not None:
        with _writer(direct, path) as file:
            yield file
        return
    final = _target(path)
    with _beside(final) as aside:
        with _writer(aside, path) as file:
            _lock(file.fileno())
            yield file
            if durable:
                file.flush()
                with naming(path, every=True):
                    os.fsync(file.fileno())
        with naming(path, every=True):
            os.replace(aside, final)
            if durable:
                _to_disk(final.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        WriteError: it cannot be written.
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
        WriteError: the folder above it cannot be made or written to, or the disk is full.
    """
    final = _target(path)
    remove_half_made(final.parent, glob.escape(final.name))
    with _folder_beside(final) as aside:
        made, earlier = aside / path.name, aside / "earlier version"
        made.mkdir()
        yield made
        if durable:
            for written in (*made.iterdir(), made):
                _to_disk(written)
        if final.exists():
            os.replace(final, earlier)
        try:
            os.replace(made, final)
        except BaseException:
            if earlier.exists():
                os.replace(earlier, final)
            raise
        if durable:
            _to_disk(final.parent)


@contextmanager
def atomic_files(path: Path) -> Iterator[Path]:
    """An empty folder in which the block writes a file of `path`'s name and others that belong to it.

    When the block ends well they all move to where `path` is, that file last; of a link to where it leads. A folder
    among them, as a Core ML program is, takes the place of an earlier one.

    Raises:
        WriteError: the folder above it cannot be made or written to, the disk is full, or `path` is a device or a pipe.
    """
    with naming(path, every=True):
        direct = _not_a_plain_file(path)
    if direct is not None:
        raise WriteError(f"{path} is a device or a pipe, and this needs a plain file. Name another.")
    final = _target(path)
    with _folder_beside(final) as aside:
        yield aside
        for file in sorted(aside.iterdir(), key=lambda file: file.name == path.name):
            place = final if file.name == path.name else final.with_name(file.name)
            if file.is_dir() and place.is_dir():
                os.replace(place, aside / f"{file.name} earlier version")
            os.replace(file, place)


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


def remove_abandoned(folder: Path) -> None:
    """Delete whatever killed processes have left half-made in a folder; what is still being written stays."""
    with suppress(OSError):  # a folder that cannot be listed
        for path in half_made(folder, "*"):
            if _is_abandoned(path):
                _delete(path)


def cache_folder() -> Path:
    """$DISTILL_MTL_CACHE, or ~/.cache/distill_mtl."""
    return Path(os.environ.get("DISTILL_MTL_CACHE") or "~/.cache/distill_mtl").expanduser()


def refuse_unwritable(path: Path, option: str, *, folder: bool = False) -> None:
    """Called before the work whose result goes to a file or folder. Leaves nothing behind.

    Args:
        path: that will be written.
        option: that named it.
        folder: `path` will be a folder.

    Raises:
        UserError: it is a folder where a file is needed, or the other way round; it cannot be written.
    """
    if os.path.isdir(path) and not folder:
        raise UserError(f"{option} {path} is a folder. Name a file, such as {option} {path / 'FILE'}.")
    if folder and os.path.exists(path) and not os.path.isdir(path):
        raise UserError(f"{option} {path} is a file, and a folder is needed. Name another place.")
    if folder and os.path.islink(path) and not os.path.exists(path):
        raise UserError(
            f"{option} {path} is a link to {os.readlink(path)}, which is not there. Make that folder."
        )
    try:
        with naming(path, every=True):
            direct = None if folder else _not_a_plain_file(path)
            if direct is None:
                with _beside(_target(path / "file" if folder else path)) as aside:
                    aside.touch()
            elif isinstance(direct, int):
                os.close(direct)
    except WriteError as error:
        raise UserError(f"{option}: {error}") from error


def refuse_full_disks(sizes: Mapping[Path, int], what: str, remedy: Remedy = _ROOM) -> None:
    """Called before the work that will write so many bytes to each place. Places on one disk are added up.

    Args:
        sizes: file or folder, which need not be there -> bytes.
        what: needs them, for the message.
        remedy: what to do, and the type of the error.

    Raises:
        UserError: a disk has less room; with both numbers.
    """
    disks: dict[int, tuple[Path, int, int]] = {}
    for path, size in sizes.items():
        folder, free = free_bytes(path)
        first, _, before = disks.get(number := os.stat(folder).st_dev, (folder, free, 0))
        disks[number] = (first, free, before + size)
    for folder, free, size in disks.values():
        if size > free:
            raise remedy.error(
                f"{what} needs about {megabytes(size)}, and the disk of {folder} has {megabytes(free)} free. "
                f"{remedy.mend}"
            )


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; 0 where nothing is."""
    if not path.is_dir():
        return path.stat().st_size if path.is_file() else 0
    return _bytes_below(path)


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


class _NamedFile(io.FileIO):
    """A file whose failing writes say what could not be written.

    Args:
        file: its path, or a descriptor.
        place: what the message names.
    """

    def __init__(self, file: Path | int, place: Path) -> None:
        super().__init__(file, "wb")
        self._place, self._written = place, 0

    def write(self, data: Any) -> int:
        """As FileIO does."""
        with naming(self._place, lambda: self._written, every=True):
            count = super().write(data)
        self._written += count
        return count


@contextmanager
def _writer(file: Path | int, place: Path) -> Iterator[BinaryIO]:
    with naming(place, every=True):
        raw = _NamedFile(file, place)
    with io.BufferedWriter(raw, _BUFFER) as buffered:
        yield buffered


def _not_a_plain_file(path: Path) -> Path | int | None:
    """What to open to write to a device, a pipe or an open descriptor; None for a plain file, a folder or nothing."""
    if (found := _DESCRIPTOR.fullmatch(os.path.abspath(path))) is not None:
        number, standard, own = found.groups()
        # A copy of it: to open its name again would cut a file that others write to, and no socket can be opened.
        return os.dup(("in", "out", "err").index(standard) if standard else int(number or own))
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    return None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else path


def _target(path: Path) -> Path:
    """Where a link leads; another path as it is."""
    return Path(os.path.realpath(path)) if os.path.islink(path) else path


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A free name beside `path`. At the end nothing is left there, nor of the folders that were made for it."""
    made = [folder for folder in path.parents if not os.path.exists(folder)]
    with naming(path, every=True):
        path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned_once(path.parent)
    aside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        yield aside
    finally:
        _delete(aside)
        for folder in made:
            with suppress(OSError):  # in use by now
                folder.rmdir()


@contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """An empty, locked folder with a free name beside `path`; what fails inside is named as `path`."""
    with _beside(path) as aside:
        with naming(path, every=True):
            aside.mkdir()
            descriptor = os.open(aside, os.O_RDONLY)
        try:
            _lock(descriptor)
            with naming(path, partial(_bytes_below, aside)):
                yield aside
        finally:
            os.close(descriptor)


_remove_abandoned_once = cache(remove_abandoned)
"""Once per folder and process: predictions write a hundred thousand files into one."""


@contextmanager
def locked(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Inside, one process of this machine, and one thread of it, at a time.

    Args:
        path: of a file that is nothing but the lock; its folder exists.
        waiting: called now and then while another holds it.
    """
    with open(path, "w") as file:
        while waiting is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waiting()
                time.sleep(_POLL)
        else:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _lock(descriptor: int) -> bool:
    """Hold what is being written until this process ends, however it ends; False where another one does."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # or the file system knows no locks
        return False
    return True


def _is_abandoned(path: Path) -> bool:
    """Whether no process writes it any more."""
    try:
        if time.time() - path.stat().st_mtime < _YOUNG:
            return False
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    except OSError:
        return False
    try:
        return _lock(descriptor)
    finally:
        os.close(descriptor)


def _delete(path: Path) -> None:
    """As far as that is possible, with one file open at a time: there may be no more."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            for inside in os.listdir(path):
                _delete(path / inside)
            path.rmdir()
        else:
            path.unlink()


def _to_disk(path: Path) -> None:
    """Make what was written survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _bytes_below(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def _bytes_in(folder: Path) -> int:
    total = 0
    if folder.exists():
        for entry in os.scandir(folder):
            with suppress(FileNotFoundError):  # renamed since it was listed
                total += entry.stat().st_size
    return total
