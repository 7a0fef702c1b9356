"""The bounded store of a data set whose shards stay in a bucket: `data.SOURCE.store: 50GB`.

A folder of this machine that all its processes share. Who needs a shard first fetches it, and it appears whole; the
others wait. Before one comes, those go that the order of the rows needs last (Belady: the order is known). A file that
is dropped while another process reads it stays readable there. What comes must be what was described when the run
began, to the ETag and to the CRC32 of its bytes, which the index has.
"""

import hashlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from distill_mtl import remote_files
from distill_mtl.errors import ShardError
from distill_mtl.files import atomic_file, cache_folder, half_made, locked, remove_abandoned, write_text
from distill_mtl.remote_files import ChangedError, RemoteFile
from distill_mtl.system_errors import free_bytes, megabytes

_ORDER = ".order"  # of the files, by when they are needed; hidden, as the locks are
_LOCKS = 256
_POLL = 0.05
_SAY_AFTER, _SAY_EVERY = 3.0, 10.0  # seconds of waiting for a shard
_ATTEMPTS = 2  # that a checksum may fail
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Expected:
    """A file that may be in the store.

    Attributes:
        file: as it stood in the bucket when the run began.
        checksum: CRC32 of its bytes; None where nothing tells it.
    """

    file: RemoteFile
    checksum: int | None


class ShardStore:
    """Files of a bucket on the local disk, at most so many bytes of them. It travels to reader processes.

    Args:
        owner: who needs it, for messages: data.pets.
        limit: bytes.
        urls: of its shards, which decide the folder: runs on the same shards share it.
    """

    def __init__(self, owner: str, limit: int, urls: Sequence[str]) -> None:
        self.owner, self.limit = owner, limit
        digest = hashlib.blake2b("\n".join(sorted(urls)).encode(), digest_size=8).hexdigest()
        self.folder = cache_folder() / "store" / digest
        self._expected: dict[str, Expected] = {}

    def place(self, file: RemoteFile) -> Path:
        """Where a file lies once it has come; a replaced one would lie elsewhere."""
        digest = hashlib.blake2b(f"{file.url} {file.state}".encode(), digest_size=6).hexdigest()
        return self.folder / f"{digest}-{file.name}"

    def expect(self, file: RemoteFile, checksum: int | None) -> None:
        """Let a file come when it is needed.

        Raises:
            ShardError: it alone is larger than the store.
        """
        if file.size > self.limit:
            raise ShardError(
                f"{self.owner}.store: {megabytes(self.limit)} cannot hold {file.url} of {megabytes(file.size)}. "
                "Raise it, or write smaller shards."
            )
        self._expected[str(self.place(file))] = Expected(file, checksum)

    def refuse_full_disk(self) -> None:
        """Refuse a store that the disk has no room for.

        Raises:
            ShardError: with both numbers.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        needed = min(self.limit, sum(one.file.size for one in self._expected.values()))
        folder, free = free_bytes(self.folder)
        if needed > free + sum(self._sizes().values()):
            raise ShardError(
                f"{self.owner}.store: {megabytes(needed)} are to be kept, and the disk of {folder} has "
                f"{megabytes(free)} free. Make room there, set a smaller store, or set DISTILL_MTL_CACHE to a folder "
                "on another disk."
            )

    def size(self, path: str) -> int:
        """Bytes of a file that was announced, whether it is here or not."""
        return self._expected[path].file.size

    def url(self, path: str) -> str:
        """Where a file comes from."""
        return self._expected[path].file.url

    def states(self) -> dict[str, str]:
        """URL -> state of every file, as a run pins it."""
        return {one.file.url: one.file.state for one in self._expected.values()}

    def held(self) -> set[str]:
        """The files that are here, whole."""
        with suppress(FileNotFoundError):
            return {entry.path for entry in os.scandir(self.folder) if not entry.name.startswith(".")}
        return set()

    def bring(self, path: str, *, ahead: bool = False) -> None:
        """Return once the file is here.

        Args:
            path: a place of the store.
            ahead: nobody waits for it yet, so nothing is said.

        Raises:
            ChangedError: it was replaced in the bucket, or does not have its checksum.
            ShardError: the bucket does not answer; no room on the disk.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._only(path, silent=ahead):
            if not os.path.exists(path):
                self._fetch(path, silent=ahead)

    def put_in_order(self, paths: Sequence[str]) -> None:
        """Note when files are needed, the next first: of those that are not named any may go."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / _ORDER, "".join(f"{os.path.basename(path)}\n" for path in paths))

    def _fetch(self, path: str, *, silent: bool) -> None:
        expected, place = self._expected[path], self.owner
        waiting = _Waiting(f"{place}: {expected.file.url}", expected.file.size, silent)
        found = None
        for _ in range(_ATTEMPTS):
            with suppress(_Damaged), ExitStack() as stack:
                to = stack.enter_context(self._room_for(path))
                found = remote_files.fetch(expected.file, to, place, waiting.note)
                if expected.checksum not in (None, found):
                    raise _Damaged  # before the file appears
                return
        raise ChangedError(
            f"{place}: {expected.file.url} is damaged, there or on the way: its CRC32 is {found:08x} and should be "
            f"{expected.checksum:08x}. Copy it again; if it was written anew, run `distill-mtl index "
            f"{remote_files.folder_of(expected.file.url)}`."
        )

    @contextmanager
    def _room_for(self, path: str) -> Iterator[BinaryIO]:
        """The file to be written, which counts in its whole size from now on. Waits while others fetch so much that
        nothing can be dropped."""
        size = self.size(path)
        with ExitStack() as stack:
            while True:
                with locked(self.folder / ".room.lock"):
                    if self._make_room(size):
                        to = stack.enter_context(atomic_file(Path(path)))
                        to.truncate(size)
                        break
                remove_abandoned(self.folder)  # of killed processes
                time.sleep(_POLL)
            yield to

    def _make_room(self, size: int) -> bool:
        """Drop what is needed last, until so many bytes fit; False where they do not."""
        sizes = self._sizes()
        total = sum(sizes.values()) + size
        for name in self._least_needed(list(sizes)):
            if total <= self.limit:
                break
            with suppress(FileNotFoundError):
                os.unlink(self.folder / name)
            total -= sizes[name]
        return total <= self.limit

    def _least_needed(self, names: Sequence[str]) -> list[str]:
        """The whole files: those that the order does not name, the oldest first; then from its end."""
        try:
            order = (self.folder / _ORDER).read_text().split("\n")
        except FileNotFoundError:
            order = []
        turn = {name: number for number, name in enumerate(order)}
        whole = [name for name in names if not name.startswith(".")]
        return sorted(whole, key=lambda name: (-turn.get(name, len(turn)), self._age(name)))

    def _age(self, name: str) -> float:
        with suppress(FileNotFoundError):
            return os.stat(self.folder / name).st_mtime
        return 0.0

    def _sizes(self) -> dict[str, int]:
        """Name -> bytes of what is here and of what is coming."""
        coming = {path.name for path in half_made(self.folder, "*.*")}
        found = {}
        for entry in os.scandir(self.folder):
            with suppress(FileNotFoundError):
                if not entry.name.startswith(".") or entry.name in coming:
                    found[entry.name] = entry.stat().st_size
        return found

    @contextmanager
    def _only(self, path: str, *, silent: bool) -> Iterator[None]:
        """One process, and one thread of it, at a time for a file."""
        number = int.from_bytes(
            hashlib.blake2b(os.path.basename(path).encode(), digest_size=4).digest(), "big"
        )
        waiting = _Waiting(f"{self.owner}: {self.url(path)}", self.size(path), silent)
        with locked(self.folder / f".{number % _LOCKS}.lock", lambda: waiting.note(self._arrived(path))):
            yield

    def _arrived(self, path: str) -> int:
        """Bytes of a file that somebody fetches."""
        total = 0
        for part in half_made(self.folder, os.path.basename(path)):
            with suppress(FileNotFoundError):
                total += part.stat().st_blocks * 512
        return total


class _Damaged(Exception):
    """What came is not what was indexed."""


class _Waiting:
    """Says now and then how much of a shard has come that somebody waits for."""

    def __init__(self, what: str, size: int, silent: bool) -> None:
        self._what, self._size, self._silent = what, size, silent
        self._next = time.monotonic() + _SAY_AFTER

    def note(self, arrived: int) -> None:
        """Called with the bytes so far."""
        if not self._silent and time.monotonic() > self._next:
            self._next = time.monotonic() + _SAY_EVERY
            _log.info("waiting for %s: %s of %s", self._what, megabytes(arrived), megabytes(self._size))
