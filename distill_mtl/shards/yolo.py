"""Data sets in YOLO's form: `data.yaml`, pictures, and beside each a text file with a line for each object.

A line is `class x y width height` (the box by its centre) or `class x y x y …` (a polygon), in shares of the picture's
sides (https://docs.ultralytics.com/datasets/detect and /segment).
"""

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired

from pydantic import PositiveInt
from rich.console import Console
from typing_extensions import TypedDict

from distill_mtl.display import Display
from distill_mtl.errors import ShardError, a_few
from distill_mtl.extras import extra
from distill_mtl.folders import FolderContent
from distill_mtl.geometry.views import Size
from distill_mtl.picture_bytes import PICTURE_ENDINGS
from distill_mtl.reading import Remedy, loads, read_text, shown
from distill_mtl.recipe.yaml_reader import read_yaml
from distill_mtl.shards.annotations import (
    BACKGROUND,
    BOXES,
    MASK,
    AnnotatedRows,
    Members,
    choose_sets,
    ignored_number,
    list_sets,
    mask_label,
    object_label,
    refuse,
    refuse_class_names,
    with_background,
)
from distill_mtl.shards.image_folders import find_files
from distill_mtl.shards.listed_rows import FileRow, ListedRows, named_file
from distill_mtl.shards.masks import DrawShapes
from distill_mtl.tasks.label import to_json

_SETS = ("train", "val", "test")
_REMEDY = Remedy("Correct it, or name the folder of another data set.", ShardError)
_CORRECT = "Correct the file, or remove it together with its picture."
_BOX, _LEAST_POLYGON = 4, 6  # numbers behind the class
_BEYOND = 1e-3  # of 1: what rounding may cost

Places = str | list[str] | None


class _DataFile(TypedDict):
    names: list[str | int | float | bool | None] | dict[str, str | int | float | bool | None]
    path: NotRequired[str | None]
    train: NotRequired[Places]
    val: NotRequired[Places]
    test: NotRequired[Places]
    nc: NotRequired[int]
    kpt_shape: NotRequired[list[PositiveInt] | None]


@dataclass(frozen=True)
class DrawBoxes:
    """Boxes in pixels from the note `boxes.json`: lists of class, centre, width and height in shares."""

    def __call__(self, notes: Members, size: Size) -> dict[str, bytes]:
        high, wide = size
        return {
            BOXES: to_json(
                [
                    {"class": name, "box": [wide * (x - w / 2), high * (y - h / 2), wide * w, high * h]}
                    for name, x, y, w, h in loads(notes[BOXES])
                ]
            )
        }


def yolo_sets(
    place: str | Path,
    *,
    label: Literal["boxes", "masks"] = "boxes",
    sets: Sequence[str] = (),
    background: bool = True,
    allow_missing: bool = False,
    task: str = "",
    options: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> dict[str, ListedRows]:
    """The sets of a data set in YOLO's form: train, val and test, as far as `data.yaml` names them.

    A picture without a text file, or with an empty one, has no objects. A polygon's box is the smallest one around it.

    Args:
        place: the folder, or its `data.yaml`.
        label: what to write; masks need polygons.
        sets: the sets to write; default all.
        background: pixels of no object are a class; False: they are unknown.
        allow_missing: leave out pictures that a list names and that are not there.
        task: a name for the task; default the folder's.
        options: of the label's kind.
        console: where progress is shown; default nowhere.

    Raises:
        ShardError: no such files; a line that is no object, or of a class without a name.
        UserError: an invalid option.
    """
    file = _data_file(Path(place))
    data = read_yaml(file, _DataFile, remedy=_REMEDY)
    names = _names(file, data)
    there = [name for name in _SETS if data.get(name)]
    if not there:
        raise ShardError(
            f"{file}: it names no pictures: `train`, `val` or `test` is expected. {_REMEDY.mend}"
        )
    reader = _Reader(file, data, names, label)
    pictures = {name: reader.pictures(name, allow_missing) for name in choose_sets(there, sets, file)}
    total = sum(len(found.files) for found in pictures.values())
    with Display(console or Console(quiet=True), "reading labels", total, unit="file") as display:
        read = {name: reader.rows(found, display) for name, found in pictures.items()}
    reader.refuse()
    what: dict[str, Any] = {"origin": "yolo", "label": label, "background": background}
    what |= {"options": dict(options)} if options else {}
    task, folders = task or file.parent.name, dict.fromkeys(read, (file.parent,))
    if label == "boxes":
        return list_sets(read, object_label(task, names, read, options), what, DrawBoxes(), folders)
    extra("pycocotools.mask", "coco", "drawing masks of polygons")
    classes = with_background(names) if background else names
    labels = mask_label(task, classes, options)
    ignored = ignored_number(labels)
    numbers = {name: classes.index(name) for name in names}
    fill = classes.index(BACKGROUND) if background else ignored
    for found in read.values():
        found.rows = [_numbered(row, numbers) for row in found.rows]
    return list_sets(read, labels, what, DrawShapes(fill, ignored, shares=True), folders)


def _numbered(row: FileRow, numbers: Mapping[str, int]) -> FileRow:
    """A row's polygons with the numbers of their classes."""
    shapes = [[numbers[name], [polygon]] for name, *polygon in loads(row.texts[MASK])]
    return row._replace(texts={MASK: to_json(shapes)})


# ---- data.yaml ------------------------------------------------------------------------------------------
def _data_file(place: Path) -> Path:
    if os.path.isfile(place):
        return place
    if not os.path.isdir(place):
        raise ShardError(f"{place}: there is no such file or folder.")
    there = sorted(path for path in place.iterdir() if path.suffix in (".yaml", ".yml"))
    usual = [path for path in there if path.stem == "data"]
    if len(usual or there) != 1:
        listed = f" There are: {a_few([path.name for path in there])}. Name one of them." if there else ""
        raise ShardError(f"{place}: a file data.yaml is expected in it.{listed}")
    return (usual or there)[0]


def _names(file: Path, data: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes by their numbers."""
    said = data["names"]
    if isinstance(said, dict):
        if sorted(said) != sorted(map(str, range(len(said)))):
            raise ShardError(
                f"{file}: `names` has the numbers {a_few([shown(key) for key in said])}. Every number from 0 to "
                f"{len(said) - 1} is expected. {_REMEDY.mend}"
            )
        said = [said[str(number)] for number in range(len(said))]
    names = tuple(str(name).strip() for name in said)
    if not names:
        raise ShardError(f"{file}: `names` is empty. {_REMEDY.mend}")
    refuse_class_names(file, names)
    if data.get("nc", len(names)) != len(names):
        raise ShardError(
            f"{file}: `nc` is {data['nc']}, and `names` has {len(names)} classes. {_REMEDY.mend}"
        )
    return names


class _Reader:
    """Reads the sets of one data set, and collects what is wrong with their labels.

    Args:
        file: `data.yaml`.
        data: what it says.
        names: its classes.
        label: what to write.
    """

    def __init__(self, file: Path, data: Mapping[str, Any], names: Sequence[str], label: str) -> None:
        self._file, self._data, self._names, self._label = file, data, names, label
        self._points = math.prod(data.get("kpt_shape") or [0])
        self._findings: list[str] = []

    def refuse(self) -> None:
        """Raises ShardError for all that is wrong."""
        refuse(self._file.parent, self._findings, _CORRECT)

    def pictures(self, name: str, allow_missing: bool) -> FolderContent:
        """The pictures of a set: paths, and what is left out."""
        said = self._data[name]
        files, left_out = list[str](), Counter[str]()
        for place in [said] if isinstance(said, str) else said:
            path = self._place(name, place)
            if path.suffix == ".txt" and path.is_file():
                listed, missing = self._listed(path)
                if missing and not allow_missing:
                    raise ShardError(
                        f"{path}: {len(missing):,} of its pictures are not there: {a_few(missing, 5)}. Correct it, or "
                        "leave them out with --allow-missing."
                    )
                left_out["pictures that are listed and not there"] += len(missing)
                files += listed
            else:
                found = find_files(path, PICTURE_ENDINGS)
                left_out += Counter({k: n for k, n in found.left_out.items() if "(.txt)" not in k})
                files += [os.path.abspath(path / one) for one in found.files]
        if not files:
            raise ShardError(f"{self._file}: the set {name} has no pictures. {_REMEDY.mend}")
        twice = [path for path, count in Counter(files).items() if count > 1]
        refuse(self._file, [f"{name} names the picture {path} twice" for path in twice], _REMEDY.mend)
        return FolderContent(files, left_out)

    def rows(self, pictures: FolderContent, display: Display) -> AnnotatedRows:
        """The rows of a set's pictures."""
        read = AnnotatedRows(left_out=Counter(pictures.left_out))
        common = os.path.commonpath([os.path.dirname(path) for path in pictures.files])
        without = list[str]()
        for number, picture in enumerate(pictures.files, 1):
            path = _label_file(picture)
            if os.path.exists(path):
                objects = self._objects(path, read.left_out)
            else:
                objects = []
                without.append(path)
            member = BOXES if self._label == "boxes" else MASK
            read.rows.append(
                FileRow(os.path.relpath(picture, common), picture, {member: to_json(objects)}, {})
            )
            read.most = max(read.most, len(objects))
            display.update(number)
        if len(without) == len(pictures.files):
            raise ShardError(
                f"{self._file}: none of {len(without):,} pictures has a file of labels: {without[0]} is not there. "
                "Labels lie in `labels` where pictures lie in `images`, or beside them."
            )
        if without:
            read.notes.append(
                f"{len(without):,} pictures have no file of labels: they count as pictures without objects."
            )
        return read

    def _place(self, name: str, said: str) -> Path:
        """Where a set's pictures are; paths from another folder's sight are tried from the file's own."""
        own = self._file.parent
        tried = [own / (self._data.get("path") or "") / said, own / said]
        tried += [own / said.removeprefix("../")] * said.startswith("../")
        for path in tried:
            if os.path.exists(path):
                return path
        looked = " nor ".join(dict.fromkeys(map(str, tried)))
        raise ShardError(
            f"{self._file}: the pictures of `{name}`, {shown(said)}, are not there: not in {looked}."
        )

    def _listed(self, path: Path) -> tuple[list[str], list[str]]:
        """The pictures in a list that are there, and those that are not."""
        there, missing = list[str](), list[str]()
        for line in read_text(path, remedy=_REMEDY).splitlines():
            if not line.strip():
                continue
            try:
                tried = [named_file(str(path), line, folder) for folder in (path.parent, self._file.parent)]
            except ValueError as error:
                raise ShardError(f"{error}.") from None
            found = next((one for one in tried if os.path.isfile(one)), None)
            (missing if found is None else there).append(os.path.abspath(found) if found else line.strip())
        return there, missing

    def _objects(self, path: str, left_out: Counter[str]) -> list[list[Any]]:
        """Class and numbers of each object in a file of labels."""
        objects, seen = list[list[Any]](), set[str]()
        for number, line in enumerate(read_text(path, remedy=_REMEDY).splitlines(), 1):
            if not line.strip():
                continue
            if line in seen:
                left_out["objects that are listed twice"] += 1
                continue
            seen.add(line)
            try:
                found = self._object(line.split())
            except ValueError as error:
                self._findings.append(f"{os.path.relpath(path, self._file.parent)}, line {number}: {error}")
                continue
            if self._label == "boxes" and min(found[3:]) <= 0:
                left_out["boxes without area"] += 1
            else:
                objects.append(found)
        return objects

    def _object(self, words: Sequence[str]) -> list[Any]:
        """Name of the class, then a box or a polygon.

        Raises:
            ValueError: the line is none.
        """
        try:
            number, *values = map(float, words)
        except ValueError:
            raise ValueError(f"numbers are expected, found {shown(' '.join(words))}") from None
        if number != int(number if math.isfinite(number) else -1) or not 0 <= number < len(self._names):
            raise ValueError(
                f"the class {shown(words[0])}, and {self._file.name} names {len(self._names)} classes, from 0 to "
                f"{len(self._names) - 1}"
            )
        if self._points and len(values) == _BOX + self._points:
            values = values[:_BOX]
        polygon = len(values) >= _LEAST_POLYGON and len(values) % 2 == 0
        if len(values) != _BOX and not polygon:
            raise ValueError(
                f"{len(values)} numbers behind the class, where a box has 4 and a polygon two for each corner (a line "
                "with a score is an answer, not a label)"
            )
        if strange := [value for value in values if not -_BEYOND <= value <= 1 + _BEYOND]:
            raise ValueError(
                f"{strange[0]:g}, where shares of the picture's sides, from 0 to 1, are expected"
            )
        values = [min(max(value, 0.0), 1.0) for value in values]
        name = self._names[int(number)]
        if self._label == "boxes":
            return [name, *(_box_around(values) if polygon else values)]
        if not polygon:
            raise ValueError("a box, and masks need polygons. Boxes are written with --label boxes")
        return [name, *values]


def _box_around(polygon: Sequence[float]) -> list[float]:
    """Centre, width and height."""
    left, right = min(polygon[::2]), max(polygon[::2])
    top, bottom = min(polygon[1::2]), max(polygon[1::2])
    return [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]


def _label_file(picture: str) -> str:
    """Of a picture: in `labels` for the last `images` of its path."""
    folder, name = os.path.split(picture)
    before, images, behind = f"{folder}{os.sep}".rpartition(f"{os.sep}images{os.sep}")
    if images:
        folder = f"{before}{os.sep}labels{os.sep}{behind}"
    return os.path.join(folder, f"{os.path.splitext(name)[0]}.txt")
