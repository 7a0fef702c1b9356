"""Rows that are listed but not read yet, from which shards are written, and their keys."""

import hashlib
import io
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from PIL import Image

from distill_mtl.data.decode import read_image
from distill_mtl.picture_bytes import MOST_BYTES
from distill_mtl.reading import read_bytes
from distill_mtl.recipe.schema import SourceSection
from distill_mtl.shards.label_kinds import Label

_STORED = {ending: ending for ending in SourceSection.model_fields["image"].default.split(";")}
_STORED |= {"jfif": "jpg", "jpe": "jpg"}
"""Ending of pictures that go into a shard as they are -> that they have there; all others are written as PNG."""


class LabelError(ValueError):
    """A label cannot be read or is invalid, though its picture can be read."""


class RowContent(NamedTuple):
    """One row as it goes into a shard: the picture's ending, its bytes, and the other members."""

    ending: str
    picture: bytes
    members: dict[str, bytes]


class ListedRows(ABC):
    """A data set whose rows are listed. It is sent to reader processes.

    Attributes:
        what: the command's origin and options, as the plan of the shards records them.
        labels: that every row has.
        left_out: what was found and is not written -> how often.
        notes: what else the user should know.
    """

    what: Mapping[str, object]
    labels: Sequence[Label]
    left_out: Mapping[str, int]
    notes: Sequence[str] = ()

    @abstractmethod
    def __len__(self) -> int:
        """How many rows there are."""

    @abstractmethod
    def key(self, number: int) -> str:
        """The row's key in the shards, unique in the data set."""

    @abstractmethod
    def place(self, number: int) -> str:
        """Where the row comes from, for messages."""

    @abstractmethod
    def read(self, number: int) -> RowContent:
        """The row.

        Raises:
            LabelError: a label cannot be read.
            OSError, ValueError: the picture cannot be read.
        """

    def sizes(self, number: int) -> Sequence[int] | None:
        """Bytes of each member of the row in a shard; None where only reading it tells."""
        return None

    @abstractmethod
    def digest(self) -> str:
        """A text that changes with the rows, their labels and files."""


class FileRow(NamedTuple):
    """A row whose picture is a file.

    Attributes:
        key: in the shards.
        picture: path.
        texts: member -> content.
        files: member -> path of a file whose bytes are the content.
    """

    key: str
    picture: str
    texts: Mapping[str, bytes]
    files: Mapping[str, str]


class FileRows(ListedRows):
    """Rows whose pictures are files: folders, tables and pairs.

    Args:
        rows: all of them.
        what, labels, left_out, notes: as in `ListedRows`.
    """

    def __init__(
        self,
        rows: Sequence[FileRow],
        what: Mapping[str, object],
        labels: Sequence[Label],
        left_out: Mapping[str, int],
        notes: Sequence[str] = (),
    ) -> None:
        self._rows = rows
        self.what, self.labels, self.left_out, self.notes = what, labels, left_out, notes

    def __len__(self) -> int:
        return len(self._rows)

    def key(self, number: int) -> str:
        return self._rows[number].key

    def place(self, number: int) -> str:
        return self._rows[number].picture

    def read(self, number: int) -> RowContent:
        row = self._rows[number]
        ending, picture = picture_file(row.picture)
        return RowContent(
            ending, picture, dict(row.texts) | {m: _label_file(p) for m, p in row.files.items()}
        )

    def sizes(self, number: int) -> Sequence[int] | None:
        row = self._rows[number]
        if _ending(row.picture) not in _STORED:
            return None
        try:
            files = [os.stat(path).st_size for path in (row.picture, *row.files.values())]
        except OSError:
            return []  # reading it says so, with its name
        return [*files, *map(len, row.texts.values())]

    def digest(self) -> str:
        """Of keys, texts, and the sizes and times of all files."""
        digest = hashlib.sha256()
        for row in self._rows:
            parts = [row.key.encode(errors="surrogateescape"), _stamp(row.picture)]
            parts += [part for member, text in row.texts.items() for part in (member.encode(), text)]
            parts += [part for member, path in row.files.items() for part in (member.encode(), _stamp(path))]
            digest.update(b"".join(b"%d:%s" % (len(part), part) for part in parts))
        return digest.hexdigest()


def picture_file(path: str) -> tuple[str, bytes]:
    """Ending and bytes of a picture: as they are, or as a PNG where no reader of shards takes its format.

    Raises:
        OSError: the file cannot be read.
        ValueError: it has to be converted to PNG and is not a picture.
    """
    content = read_bytes(path, MOST_BYTES)
    if (ending := _ending(path)) in _STORED:
        return _STORED[ending], content
    return "png", png(Image.fromarray(read_image(content, ending).permute(1, 2, 0).numpy()))


def _ending(path: str) -> str:
    return os.path.splitext(path)[1][1:].lower()


def png(picture: Image.Image) -> bytes:
    """A picture as PNG, without what else its file said."""
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    return encoded.getvalue()


def _label_file(path: str) -> bytes:
    try:
        return read_bytes(path, MOST_BYTES)
    except OSError as error:
        raise LabelError(f"{path} cannot be read ({error.strerror})") from None


def _stamp(path: str) -> bytes:
    try:
        status = os.stat(path)
    except OSError:
        return b"missing"  # reading it says so, with its name
    return b"%d %d" % (status.st_size, status.st_mtime_ns)


def unique_keys(names: Iterable[str]) -> list[str]:
    """A key for each name: `cats/tom.1.jpg` without its ending, and nothing that WebDataset gives a meaning.

    A slash becomes `-`; dots (which end a key), blanks and other signs become `_`. A name whose key is taken gets
    a number behind it, so the same names in the same order have the same keys.
    """
    keys: list[str] = []
    taken: set[str] = set()
    for name in names:
        key = re.sub(r"[^\w-]", "_", os.path.splitext(name)[0].replace(os.sep, "-")).strip("-") or "row"
        # Names like `__meta__` are WebDataset's own.
        key = key.lstrip("_") or "row"
        unique, number = key, 1
        while unique in taken:
            number += 1
            unique = f"{key}-{number}"
        taken.add(unique)
        keys.append(unique)
    return keys
