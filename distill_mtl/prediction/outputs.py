"""Where predictions go: JSON lines, label files, overlays (pictures under their answers), a table on the console.

What an output writes of a picture is made by a function beside it, which needs no file and may run on another machine.
"""

import io
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import torch
from PIL import Image, ImageDraw, ImageFont
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from distill_mtl.errors import UserError
from distill_mtl.files import atomic_file, refuse_full_disks
from distill_mtl.geometry.views import View
from distill_mtl.picture_bytes import PICTURE_ENDINGS
from distill_mtl.prediction.named_pictures import Picture
from distill_mtl.prediction.predictions import Prediction, Unread
from distill_mtl.tasks.base import Shown, TaskKind
from distill_mtl.untrusted_text import json_text

_SHARE = 0.6  # of the answer's colours in the mixture
_UNSEEN = 0.35  # of the light that is left where the network saw nothing
_LEAST = 256  # pixels of the longer side; smaller pictures are enlarged, so that a legend fits
_TEXT, _GAP, _SWATCH = 12, 6, 12
_PAPER, _INK, _EDGE = "white", "#202020", "#909090"
_ROWS = 40  # of the table
_BLOCK = 4096  # bytes; a file takes whole ones

Color = tuple[int, int, int]
Kinds = Mapping[str, TaskKind]
Make = Callable[[Kinds, Prediction | Unread], Any]
"""The tasks and a picture's answer -> what one output writes of it."""
FileContent = tuple[str, str, bytes]
"""Task, ending and content of a file."""


@dataclass(frozen=True)
class Answered:
    """What is left of a picture's answer for the outputs.

    Attributes:
        key: of the picture.
        place: of the picture.
        unread: why it could not be read; None: it was.
        cropped: whether a part of it was not shown to the network.
        contents: what each output writes of it.
    """

    key: str
    place: str
    unread: str | None
    cropped: bool
    contents: Sequence[Any]

    @classmethod
    def of(cls, kinds: Kinds, answer: Prediction | Unread, makes: Sequence[Make]) -> "Answered":
        """Of an answer, for some outputs."""
        unread = answer.reason if isinstance(answer, Unread) else None
        cropped = not isinstance(answer, Unread) and answer.cropped
        return cls(answer.key, answer.place, unread, cropped, [make(kinds, answer) for make in makes])


class Output(ABC):
    """One form of output. `put` is called once per picture, in order, then `finish`.

    Attributes:
        make: makes what `put` takes.
        place: file or folder that is written; None where no disk is filled.
    """

    make: Make
    place: Path | None = None

    @abstractmethod
    def put(self, key: str, content: Any) -> None:
        """One picture's answer, as `make` gave it."""

    def size(self, content: Any) -> int:
        """Bytes that `put` would write at `place`."""
        return 0

    def finish(self) -> None:  # noqa: B027  # most have nothing left to do
        """Called once, after the last picture."""


class JsonLines(Output):
    """One JSON object per picture: `key`, `file`, `size` [height, width], and each task's answers; or `error`.

    Args:
        stream: to write to.
        top: number of likeliest classes in the answer.
        place: the file that the stream fills.
    """

    def __init__(self, stream: TextIO, top: int, place: Path | None = None) -> None:
        self._stream, self.place = stream, place
        self.make = partial(json_line, top)

    def put(self, key: str, content: str) -> None:
        self._stream.write(content)
        self._stream.flush()

    def size(self, content: str) -> int:
        return len(content.encode())


def json_line(top: int, kinds: Kinds, answer: Prediction | Unread) -> str:
    """The line of one picture, with so many of the likeliest classes."""
    line: dict[str, Any] = {"key": answer.key, "file": answer.place}
    if isinstance(answer, Unread):
        line["error"] = answer.reason
    else:
        line["size"] = list(answer.size)
        line["tasks"] = {task: kind.answers(answer.decoded[task], top) for task, kind in kinds.items()}
    return json_text(line, allow_nan=False) + "\n"


class MapFiles(Output):
    """A file for each task with a map: FOLDER/TASK/KEY.ENDING, as `mask_files` or `overlay_files` makes them.

    Args:
        folder: that is missing or empty.
        option: that named it.
        kinds: the tasks.
        pictures: that will come.
        files: makes task, ending and content of each file of one picture.

    Raises:
        UserError: no task has a map, the folder is in use, or two pictures would share a file.
    """

    def __init__(
        self,
        folder: Path,
        option: str,
        kinds: Kinds,
        pictures: Sequence[Picture],
        files: Callable[[Kinds, Prediction], Iterator[FileContent]],
    ) -> None:
        _refuse_without_maps(kinds, option)
        self.make, self.place = partial(_map_files, files), folder
        self._paths = _OutputPaths(folder, option, pictures)

    def put(self, key: str, content: Sequence[FileContent]) -> None:
        for task, ending, payload in content:
            self._paths.write(task, key, ending, payload)

    def size(self, content: Sequence[FileContent]) -> int:
        return sum(_BLOCK * math.ceil(len(payload) / _BLOCK) for _, _, payload in content)


def _map_files(
    files: Callable[[Kinds, Prediction], Iterator[FileContent]], kinds: Kinds, answer: Prediction | Unread
) -> list[FileContent]:
    """Those of the tasks with a map; none of a picture that could not be read."""
    dense = {task: kind for task, kind in kinds.items() if kind.dense}
    return [] if isinstance(answer, Unread) else list(files(dense, answer))


def mask_files(kinds: Kinds, answer: Prediction) -> Iterator[FileContent]:
    """FOLDER/TASK/KEY.png (or .npy, .json): the answers of tasks with a map as labels, in the form that shards hold."""
    for task, kind in kinds.items():
        try:
            ending, content = kind.checked_label(answer.decoded[task])
        except UserError as error:
            raise UserError(f"--masks: {answer.place}, {task}: {error}") from None
        yield task, ending.rpartition(".")[2], content


def overlay_files(kinds: Kinds, answer: Prediction) -> Iterator[FileContent]:
    """FOLDER/TASK/KEY.png: the picture under the answer, dark where the network did not see it, with a legend."""
    for task, kind in kinds.items():
        shown = kind.show_answer(answer.logits[task], answer.image)
        if shown.picture is not None:
            encoded = io.BytesIO()
            overlay(answer.picture, answer.view, answer.image, shown).save(encoded, "PNG")
            yield task, "png", encoded.getvalue()


def refuse_full_disks_of(outputs: Sequence[Output], answers: Sequence[Answered], pictures: int) -> None:
    """Called before the first answer is written.

    Args:
        outputs: to be written.
        answers: the first ones; others are taken to be as large.
        pictures: how many there are.

    Raises:
        UserError: a disk has less room than the answers will take.
    """
    sizes = {
        each.place: sum(each.size(answer.contents[number]) for answer in answers) * pictures // len(answers)
        for number, each in enumerate(outputs)
        if each.place is not None and answers
    }
    refuse_full_disks(sizes, f"what is written about {pictures:,} pictures")


class AnswerTable(Output):
    """A line per picture, of the first ones.

    Args:
        console: to print to, at the end.
        kinds: the tasks.
        top: number of likeliest classes in the answer.
    """

    def __init__(self, console: Console, kinds: Kinds, top: int) -> None:
        self._console, self._more = console, 0
        self.make = partial(table_cells, top)
        self._table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("image", *kinds):
            self._table.add_column(name, overflow="fold")

    def put(self, key: str, content: Sequence[str] | None) -> None:
        if self._table.row_count == _ROWS:
            self._more += 1
        elif content is None:
            self._table.add_row(Text(key), Text("could not be read", style="red"))
        else:
            self._table.add_row(Text(key), *map(Text, content))

    def finish(self) -> None:
        self._console.print(self._table)
        if self._more:
            self._console.print(f"and {self._more:,} more images: --json FILE writes the answers of all")


def table_cells(top: int, kinds: Kinds, answer: Prediction | Unread) -> list[str] | None:
    """A cell for each task; None for a picture that could not be read."""
    return (
        None
        if isinstance(answer, Unread)
        else [_said(top, kind, answer, task) for task, kind in kinds.items()]
    )


def _said(top: int, kind: TaskKind, answer: Prediction, task: str) -> str:
    answers = kind.answers(answer.decoded[task], top)
    if "top" in answers:
        return in_words({"top": answers["top"]})
    return kind.show_answer(answer.logits[task], answer.image).caption or in_words(answers)


def in_words(answers: Mapping[str, Any]) -> str:
    """Plain values as a line for people."""
    return "; ".join(_words(value) for value in answers.values())


def overlay(whole: Tensor, view: View, image: Tensor, shown: Shown) -> Image.Image:
    """RGB, at least 256 pixels on its longer side: all of the picture, dark where the network did not see it.

    Args:
        whole: uint8 [3, height, width], the picture.
        view: what the network saw of it.
        image: uint8 [3, H, W], the view in the picture's own pixels.
        shown: with a picture of the view's size.
    """
    assert shown.picture is not None
    mixed = shown.picture if shown.over_image else _mixed(image, shown.picture)
    placed = _placed(mixed, whole, view)
    picture = Image.fromarray(placed.permute(1, 2, 0).contiguous().numpy())
    times = -(-_LEAST // max(picture.size))
    picture = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    font = ImageFont.load_default(size=_TEXT)
    entries: list[tuple[str, Color | None]] = [*shown.legend.colors.items()] or [(shown.caption, None)]
    places, below = _places([name for name, _ in entries], font, picture.width)
    sheet = Image.new("RGB", (picture.width, picture.height + below), _PAPER)
    sheet.paste(picture, (0, 0))
    pen = ImageDraw.Draw(sheet)
    for (name, color), (left, top) in zip(entries, places, strict=True):
        top += picture.height
        if color is not None:
            pen.rectangle((left, top, left + _SWATCH, top + _SWATCH), color, _EDGE)
        pen.text((left + _SWATCH + 4, top - 1), name, _INK, font=font)
    return sheet


def _words(value: Any) -> str:
    if isinstance(value, Mapping) and value.keys() == {"label", "probability"}:
        return f"{value['label']} ({100 * value['probability']:.0f} %)"
    if isinstance(value, Mapping):  # an object, or values by name
        pairs = ((name, _words(each)) for name, each in value.items())
        return " ".join(each for _, each in pairs) if "label" in value else ", ".join(map(" ".join, pairs))
    if isinstance(value, list):
        return ", ".join(map(_words, value)) or "none"
    return "–" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _refuse_without_maps(kinds: Kinds, option: str) -> None:
    if not any(kind.dense for kind in kinds.values()):
        raise UserError(
            f"{option}: none of the tasks ({', '.join(kinds)}) answers with a map. --json FILE writes their answers."
        )


class _OutputPaths:
    """Files below a folder by task and key.

    Args:
        folder: missing or empty.
        option: that named it, for messages.
        pictures: whose keys become paths.
    """

    def __init__(self, folder: Path, option: str, pictures: Sequence[Picture]) -> None:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(
                f"{option} {folder}: it is not an empty folder. Choose another one, or delete it."
            )
        self._folder, taken = folder.resolve(), dict[Path, Picture]()
        for picture in pictures:
            path = self._path(picture.key)
            if not path.is_relative_to(self._folder) or path == self._folder:
                raise UserError(
                    f"{option}: the key '{picture.key}' ({picture.place}) leads out of the folder."
                )
            if (other := taken.setdefault(path, picture)) is not picture:
                raise UserError(
                    f"{option}: {other.place} and {picture.place} would be written to one file, {picture.key}. Name a "
                    "folder that holds both, or give them one after the other."
                )

    def write(self, task: str, key: str, ending: str, content: bytes) -> None:
        """One answer, whole or not at all.

        Raises:
            WriteError: it cannot be written.
        """
        path = self._folder / task / self._path(key).relative_to(self._folder)
        path = path.with_name(f"{path.name}.{ending}")
        with atomic_file(path) as file:
            file.write(content)

    def _path(self, key: str) -> Path:
        """Without the ending of a picture file."""
        path = Path(os.path.normpath(self._folder / key))
        return path.with_suffix("") if path.suffix.lower()[1:] in PICTURE_ENDINGS else path


def _mixed(image: Tensor, answer: Tensor) -> Tensor:
    return torch.lerp(image.float(), answer.float(), _SHARE).round().to(torch.uint8)


def _placed(answer: Tensor, whole: Tensor, view: View) -> Tensor:
    """The view's pixels where they belong in the picture; what lies beyond its border is dropped."""
    top, left, bottom, right = view.inside((whole.shape[1], whole.shape[2]))
    placed = (whole.float() * _UNSEEN).round().to(torch.uint8)
    rows, columns = slice(top - view.top, bottom - view.top), slice(left - view.left, right - view.left)
    placed[:, top:bottom, left:right] = answer[:, rows, columns]
    return placed


def _places(
    names: list[str], font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int
) -> tuple[list[tuple[int, int]], int]:
    """Left and top of each entry of the legend, line by line, and the height of all of it."""
    places, left, top = list[tuple[int, int]](), _GAP, _GAP
    for name in names:
        wide = _SWATCH + 4 + int(font.getlength(name)) + 2 * _GAP
        if left > _GAP and left + wide > width:
            left, top = _GAP, top + _TEXT + _GAP
        places.append((left, top))
        left += wide
    return places, top + _TEXT + 2 * _GAP
