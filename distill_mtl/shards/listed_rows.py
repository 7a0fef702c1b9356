"""Rows that are listed but not read yet, from which shards are written, and their keys."""

import hashlib
import io
import os
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from distill_mtl.data.decode import read_image
from distill_mtl.geometry.views import Size
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

    def with_labels(self, number: int, content: RowContent, size: Size) -> RowContent:
        """The row as it was read, with the labels that only the picture's height and width make; here as it is.

        Raises:
            LabelError: its labels are of a picture of another size, or cannot be made.
        """
        return content

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
        size: height and width of the picture that its labels are for; None: they do not say.
    """

    key: str
    picture: str
    texts: Mapping[str, bytes]
    files: Mapping[str, str]
    size: Size | None = None


class FileRows(ListedRows):
    """Rows whose pictures are files: of all origins but torchvision and Hugging Face.

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

    def with_labels(self, number: int, content: RowContent, size: Size) -> RowContent:
        said = self._rows[number].size
        if said is not None and said != size:
            raise LabelError(
                f"its labels are for a picture of {said[1]}x{said[0]} pixels, and it has {size[1]}x{size[0]} (as it is "
                "shown, where its EXIF data turn it)"
            )
        return content

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
    return picture_content(read_bytes(path, MOST_BYTES), _ending(path))


def picture_content(content: bytes, ending: str) -> tuple[str, bytes]:
    """Ending and bytes of a picture as `picture_file` gives them.

    Args:
        content: of its file.
        ending: of the file's name, without a dot.

    Raises:
        ValueError: it has to be converted to PNG and is not a picture.
    """
    if ending in _STORED:
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


def named_file(where: str, name: Any, folder: Path) -> str:
    """The file that somebody's text names, also as Windows (backslashes) or a Mac (letters and their accents apart)
    writes it.

    Args:
        where: the text stands, for the message.
        name: path, from the folder on.
        folder: that it starts from.

    Raises:
        ValueError: it is a path on a drive of Windows.
    """
    text = str(name).strip()
    if text.isascii() and "\\" not in text:  # as nearly always, without a look at the disk
        return str(folder / text)
    slashes = text.replace("\\", "/")
    forms = (unicodedata.normalize(form, each) for each in (text, slashes) for form in ("NFC", "NFD"))
    found = next((folder / each for each in (text, slashes, *forms) if os.path.exists(folder / each)), None)
    if found is None and re.match(r"[A-Za-z]:/", slashes):
        raise ValueError(
            f"{where} is {text}, on a drive of Windows. Write paths from {folder} on, or name another folder with "
            "--images"
        )
    return str(folder / text if found is None else found)


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
