"""What lies in a folder, at any depth: the one walk of all commands.

Each real folder is read once, under its own path rather than a link's. Names that an operating system, a file server
or an editor makes by itself are left out and counted, as is what is not a regular file.
"""

import os
import re
from collections import Counter, deque
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from distill_mtl.errors import UserError, brief

_SYSTEM = (
    "@eaDir",
    "#recycle",
    "#snapshot",
    "$RECYCLE.BIN",
    "__MACOSX",
    "__pycache__",
    "desktop.ini",
    "ehthumbs.db",
    "lost+found",
    "System Volume Information",
    "Thumbs.db",
)
_HIDDEN = re.compile(rf"(?:^|/)(?:\.(?!\.?/)|(?:{'|'.join(map(re.escape, _SYSTEM))})(?:/|$))", re.IGNORECASE)

HIDDEN = "hidden and system files and folders"
_TWICE = "links to folders that are read already"
_NO_FILES = "links that lead nowhere, FIFOs and devices"


class FolderContent(NamedTuple):
    """The regular files of a folder.

    Attributes:
        files: paths relative to the folder, sorted.
        left_out: a description -> how many.
    """

    files: list[str]
    left_out: Counter[str]

    def ending(self, endings: str | tuple[str, ...]) -> list[str]:
        """The files whose names end so."""
        return [file for file in self.files if file.endswith(endings)]


def is_hidden(path: str) -> bool:
    """Whether a part of a path is a hidden or a system name; `.` and `..` are not."""
    return _HIDDEN.search(path) is not None


def walk_folder(folder: Path) -> FolderContent:
    """The files below a folder, whose own name may be anything.

    Links are followed, but not to a folder that is read already, nor to one that holds this folder.

    Raises:
        UserError: a folder cannot be read.
    """
    files, left_out = list[str](), Counter[str]()
    try:
        seen = {_identity(parent) for parent in folder.resolve().parents}
        roots = deque([""])
        while roots:
            root = roots.popleft()
            if _identity(folder / root) in seen:
                left_out[_TWICE] += 1
            else:
                roots.extend(sorted(_walk_real(folder, root, seen, files, left_out)))
    except OSError as error:
        raise UserError(
            f"{error.filename or folder} cannot be read: {error.strerror or brief(error)}. Make it readable, or move "
            "it elsewhere."
        ) from error
    return FolderContent(sorted(files), left_out)


def _walk_real(
    folder: Path, root: str, seen: set[tuple[int, int]], files: list[str], left_out: Counter[str]
) -> Iterable[str]:
    """Add what is reached from `root` without a link; the links to other folders."""
    links, waiting = list[str](), [root]
    while waiting:
        here = waiting.pop()
        if (identity := _identity(folder / here)) in seen:  # mounted twice
            continue
        seen.add(identity)
        with os.scandir(folder / here) as entries:
            for entry in entries:
                path = os.path.join(here, entry.name)
                if is_hidden(entry.name):
                    left_out[HIDDEN] += 1
                elif os.path.isdir(entry.path):
                    (links if entry.is_symlink() else waiting).append(path)
                elif os.path.isfile(entry.path):
                    files.append(path)
                else:
                    left_out[_NO_FILES] += 1
    return links


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino
