"""Random reads from many shards through few open files."""

import os
from collections import OrderedDict

from distill_mtl.errors import ShardError

_MOST = 128


class OpenFiles:
    """Files that stay open between reads, the least recently used closed when there are too many.

    A copy in another process (a DataLoader's worker) begins with none open.
    """

    def __init__(self) -> None:
        self._files: OrderedDict[str, int] = OrderedDict()

    def read(self, path: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on.

        Raises:
            ShardError: the file is gone or ends before.
        """
        try:
            payload = _read_at(self._open(path), offset, size)
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
        if path in self._files:
            self._files.move_to_end(path)
            return self._files[path]
        if len(self._files) >= _MOST:
            os.close(self._files.popitem(last=False)[1])
        self._files[path] = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        return self._files[path]

    def __getstate__(self) -> dict[str, object]:
        return {"_files": OrderedDict()}

    def __del__(self) -> None:
        self.close()


if hasattr(os, "pread"):

    def _read_at(descriptor: int, offset: int, size: int) -> bytes:
        return os.pread(descriptor, size, offset)

else:

    def _read_at(descriptor: int, offset: int, size: int) -> bytes:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, size)
