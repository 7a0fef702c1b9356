"""Files that stay open between reads in random order."""

import os
from contextlib import suppress

from distill_mtl.data.shard_store import ShardStore
from distill_mtl.errors import ShardError

_MOST = 128
_TRIES = 20  # for a shard that another process drops before it is opened here


class OpenFiles:
    """Files that stay open between reads; when there are too many, the one opened first is closed.

    Rows come in random order, so no file is likelier than another to be needed again.

    A copy in another process (a DataLoader's worker) begins with none open.

    Args:
        store: brings files that are not here, and may drop those that are.
    """

    def __init__(self, store: ShardStore | None = None) -> None:
        self._files: dict[str, int] = {}
        self._store = store

    def read(self, path: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on.

        Raises:
            ShardError: the file is gone or ends before.
        """
        try:
            descriptor = self._files.get(path)
            payload = _read_at(self._open(path) if descriptor is None else descriptor, size, offset)
        except OSError as error:
            raise ShardError(f"{path}: cannot be read ({error.strerror}).") from None
        if len(payload) != size:
            raise ShardError(f"{path}: ends before byte {offset + size}; it was changed while it was read.")
        return payload

    def close(self) -> None:
        """Close every file; the next read opens its file again."""
        while self._files:
            os.close(self._files.popitem()[1])

    def _open(self, path: str) -> int:
        if len(self._files) >= _MOST:
            os.close(self._files.pop(next(iter(self._files))))
        if self._store is not None:
            self._close_dropped()
            for _ in range(_TRIES):
                with suppress(FileNotFoundError):
                    return self._opened(path)
                self._store.bring(path)
        return self._opened(path)

    def _opened(self, path: str) -> int:
        self._files[path] = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        return self._files[path]

    def _close_dropped(self) -> None:
        """Close what the store has dropped: it takes room on the disk until then."""
        for path, descriptor in list(self._files.items()):
            if not os.fstat(descriptor).st_nlink:
                os.close(self._files.pop(path))

    def __getstate__(self) -> dict[str, object]:
        return {"_files": {}, "_store": self._store}

    def __del__(self) -> None:
        self.close()


if hasattr(os, "pread"):
    _read_at = os.pread
else:

    def _read_at(descriptor: int, size: int, offset: int, /) -> bytes:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, size)
