"""Where predictions go: JSON lines, label files, pictures with a legend, a table on the console."""

import io
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from distill_mtl.errors import UserError, brief
from distill_mtl.files import atomic_file
from distill_mtl.prediction.overlay import overlay
from distill_mtl.prediction.pictures import Picture, picture_endings
from distill_mtl.prediction.predict import Prediction, Unread
from distill_mtl.tasks.base import TaskKind

_ROWS = 40  # of the table
_ENDINGS = frozenset(picture_endings())


class Output(ABC):
    """One form of output. `add` is called once per picture, in order, then `finish`."""

    @abstractmethod
    def add(self, answer: Prediction | Unread) -> None:
        """One picture's answer; of a picture that could not be read, why."""

    def finish(self) -> None:  # noqa: B027  # most have nothing left to do
        """Called once, after the last picture."""


class JsonLines(Output):
    """One JSON object per picture: `key`, `file`, `size` [height, width], and each task's answers; or `error`.

    Args:
        stream: to write to.
        kinds: the tasks.
        top: likeliest classes that are told.
    """

    def __init__(self, stream: TextIO, kinds: Mapping[str, TaskKind], top: int) -> None:
        self._stream, self._kinds, self._top = stream, kinds, top

    def add(self, answer: Prediction | Unread) -> None:
        line: dict[str, Any] = {"key": answer.key, "file": answer.place}
        if isinstance(answer, Unread):
            line["error"] = answer.reason
        else:
            line["size"] = list(answer.size)
            line["tasks"] = {
                task: kind.answers(answer.decoded[task], self._top) for task, kind in self._kinds.items()
            }
        self._stream.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        self._stream.flush()


class Masks(Output):
    """FOLDER/TASK/KEY.png (or .npy, .json): the answers of tasks with a map as labels, in the form that shards hold.

    Args:
        folder: that is missing or empty.
        kinds: the tasks.
        pictures: that will come.

    Raises:
        UserError: no task has a map, the folder is in use, or two pictures would share a file.
    """

    def __init__(self, folder: Path, kinds: Mapping[str, TaskKind], pictures: Sequence[Picture]) -> None:
        self._kinds = _with_maps(kinds, "--masks")
        self._places = _Places(folder, "--masks", pictures)

    def add(self, answer: Prediction | Unread) -> None:
        if isinstance(answer, Unread):
            return
        for task, kind in self._kinds.items():
            member, content = kind.write_label(answer.decoded[task])
            self._places.write(task, answer.key, member.rpartition(".")[2], content)


class Overlays(Output):
    """FOLDER/TASK/KEY.png: the picture under the answer, dark where the network did not see it, with a legend.

    Args, raises: as of `Masks`.
    """

    def __init__(self, folder: Path, kinds: Mapping[str, TaskKind], pictures: Sequence[Picture]) -> None:
        self._kinds = _with_maps(kinds, "--overlays")
        self._places = _Places(folder, "--overlays", pictures)

    def add(self, answer: Prediction | Unread) -> None:
        if isinstance(answer, Unread):
            return
        for task, kind in self._kinds.items():
            shown = kind.show_answer(answer.logits[task], answer.image)
            if shown.picture is not None:
                encoded = io.BytesIO()
                overlay(answer.picture, answer.view, answer.image, shown).save(encoded, "PNG")
                self._places.write(task, answer.key, "png", encoded.getvalue())


class AnswerTable(Output):
    """A line per picture, of the first ones.

    Args:
        console: to print to, at the end.
        kinds: the tasks.
        top: likeliest classes that are told.
    """

    def __init__(self, console: Console, kinds: Mapping[str, TaskKind], top: int) -> None:
        self._console, self._kinds, self._top, self._more = console, kinds, top, 0
        self._table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("image", *kinds):
            self._table.add_column(name, overflow="fold")

    def add(self, answer: Prediction | Unread) -> None:
        if self._table.row_count == _ROWS:
            self._more += 1
        elif isinstance(answer, Unread):
            self._table.add_row(Text(answer.key), Text("could not be read", style="red"))
        else:
            self._table.add_row(Text(answer.key), *(Text(self._said(answer, task)) for task in self._kinds))

    def finish(self) -> None:
        self._console.print(self._table)
        if self._more:
            self._console.print(f"and {self._more:,} more images: --json FILE writes the answers of all")

    def _said(self, answer: Prediction, task: str) -> str:
        kind = self._kinds[task]
        answers = kind.answers(answer.decoded[task], self._top)
        if "top" in answers:
            return in_words({"top": answers["top"]})
        return kind.show_answer(answer.logits[task], answer.image).caption or in_words(answers)


def in_words(answers: Mapping[str, Any]) -> str:
    """Plain values as a line for people."""
    return "; ".join(_words(value) for value in answers.values())


def _words(value: Any) -> str:
    if isinstance(value, Mapping) and value.keys() == {"label", "probability"}:
        return f"{value['label']} ({100 * value['probability']:.0f} %)"
    if isinstance(value, Mapping):  # an object, or values by name
        pairs = ((name, _words(each)) for name, each in value.items())
        return " ".join(each for _, each in pairs) if "label" in value else ", ".join(map(" ".join, pairs))
    if isinstance(value, list):
        return ", ".join(map(_words, value)) or "none"
    return "–" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _with_maps(kinds: Mapping[str, TaskKind], option: str) -> dict[str, TaskKind]:
    dense = {task: kind for task, kind in kinds.items() if kind.dense}
    if not dense:
        raise UserError(
            f"{option}: none of the tasks ({', '.join(kinds)}) answers with a map. --json FILE writes their answers."
        )
    return dense


class _Places:
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
        self._folder, self._option, taken = folder.resolve(), option, dict[Path, Picture]()
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
            UserError: it cannot be written.
        """
        path = self._folder / task / self._path(key).relative_to(self._folder)
        path = path.with_name(f"{path.name}.{ending}")
        try:
            with atomic_file(path) as file:
                file.write(content)
        except OSError as error:
            raise UserError(
                f"{self._option}: {path} cannot be written ({error.strerror or brief(error)})."
            ) from error

    def _path(self, key: str) -> Path:
        """Without the ending of a picture file."""
        path = Path(os.path.normpath(self._folder / key))
        return path.with_suffix("") if path.suffix.lower()[1:] in _ENDINGS else path
