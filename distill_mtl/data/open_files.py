"""Random reads from many shards through few open files."""

import os

from distill_mtl.errors import ShardError

_MOST = 128


class OpenFiles:
    """Files that stay open between reads; when there are too many, the one opened first is closed.

    Rows come in random order, so no file is likelier than another to be needed again.

    A copy in another process (a DataLoader's worker) begins with none open.
    """

    def __init__(self) -> None:
        self._files: dict[str, int] = {}

    def read(self, path: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on.

        Raises:
            ShardError: the file is gone or ends before.
        """
        try:
            descriptor = self._files.get(path)
            payload = _read_at(self._open(path) if descriptor is None else descriptor, offset, size)
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
        self._files[path] = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        return self._files[path]

    def __getstate__(self) -> dict[str, object]:
        return {"_files": {}}

    def __del__(self) -> None:
        self.close()


if hasattr(os, "pread"):

    def _read_at(descriptor: int, offset: int, size: int) -> bytes:
        return os.pread(descriptor, size, offset)

else:

    def _read_at(descriptor: int, offset: int, size: int) -> bytes:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, size)
