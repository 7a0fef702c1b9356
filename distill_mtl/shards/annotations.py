"""What the forms of annotations (COCO, YOLO, VOC) have in common: sets of rows with boxes, points or masks.

An origin reads each of its sets into `AnnotatedRows`, whole, before anything is written. `list_sets` makes of them the
rows of the shards: all sets have the same classes and options. Labels that only the picture's size makes (YOLO's
shares, masks of polygons) travel as notes and are drawn by the reader process.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill_mtl.data.shard_sets import set_named
from distill_mtl.errors import ShardError, nearest
from distill_mtl.geometry.views import Size
from distill_mtl.reading import shown
from distill_mtl.shards.label_kinds import FoundLabel, Label, LabelKinds
from distill_mtl.shards.listed_rows import (
    FileRow,
    FileRows,
    LabelError,
    ListedRows,
    RowContent,
    unique_keys,
)
from distill_mtl.splits import SPLITS, Split
from distill_mtl.tasks.heatmap import MOST_OBJECTS

BOXES, MASK = "boxes.json", "seg.png"
BACKGROUND = "background"
SHORT: dict[Split, str] = {"train": "train", "validation": "val", "test": "test"}
"""How the shards of a set are called, where the origin's own name for it is longer."""
_BYTE, _TWO_BYTES = 255, 65_535
_SHOWN = 5

Members = Mapping[str, bytes]
Draw = Callable[[Members, Size], dict[str, bytes]]
"""From a row's notes and the height and width of its picture to its labels. Raises ValueError."""


@dataclass
class AnnotatedRows:
    """A set as its annotations describe it.

    Attributes:
        rows: with the relative path of the picture, or another name, for a key.
        left_out: what was found and is not written -> how often.
        most: objects in a picture.
        notes: what else the user should know.
    """

    rows: list[FileRow] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    most: int = 0
    notes: list[str] = field(default_factory=list)


class DrawnRows(FileRows):
    """Rows whose labels are drawn once the picture's size is known.

    Args:
        draw: travels to reader processes.
        rows, what, labels, left_out, notes: as in `FileRows`; the rows' texts and files are the notes.
    """

    def __init__(self, draw: Draw, *rows: Any) -> None:
        super().__init__(*rows)
        self._draw = draw

    def with_labels(self, number: int, content: RowContent, size: Size) -> RowContent:
        content = super().with_labels(number, content, size)
        try:
            return content._replace(members=self._draw(content.members, size))
        except ValueError as error:
            raise LabelError(str(error)) from None

    def sizes(self, number: int) -> Sequence[int] | None:
        return None


def list_sets(
    read: Mapping[str, AnnotatedRows],
    labels: Sequence[Label],
    what: Mapping[str, object],
    draw: Draw | None = None,
    folders: Mapping[str, Sequence[Path]] | None = None,
) -> dict[str, ListedRows]:
    """The rows of every set; notes say how many pictures another set has, too, and how many files lie elsewhere.

    Args:
        read: name of the set -> its rows; one set may be called as nothing.
        labels: of every row of every set.
        what: origin and options.
        draw: makes the labels; None: they are ready.
        folders: name of the set -> where its files are expected, if annotations name them.

    Raises:
        ShardError: a set without rows.
    """
    sets: dict[str, ListedRows] = {}
    pictures: dict[str, set[str]] = {}
    for name, found in read.items():
        if not found.rows:
            why = "; ".join(
                f"left out: {count:,} {which}" for which, count in found.left_out.items() if count
            )
            raise ShardError(f"{_called(name)}: no rows are left" + (f" ({why})." if why else "."))
        keys = unique_keys(row.key for row in found.rows)
        rows = [row._replace(key=key) for row, key in zip(found.rows, keys, strict=True)]
        described = {**what, "set": name, "labels": [label.named() for label in labels]}
        mine = {os.path.realpath(row.picture) for row in rows}
        common = {other: len(mine & theirs) for other, theirs in pictures.items()}
        notes = [f"{count:,} of its pictures are in {other} too" for other, count in common.items() if count]
        pictures[name] = mine
        if folders is not None:
            files = [path for row in rows for path in (row.picture, *row.files.values())]
            notes += note_outside(files, folders[name])
        parts = (rows, described, labels, found.left_out, [*found.notes, *notes])
        sets[name] = FileRows(*parts) if draw is None else DrawnRows(draw, *parts)
    return sets


def note_outside(files: Iterable[str], folders: Sequence[Path]) -> list[str]:
    """A note if annotations name files outside of all these folders: such files are read, and the user may not know."""
    inside = tuple(os.path.join(os.path.abspath(folder), "") for folder in folders)
    outside = [file for file in files if not os.path.abspath(file).startswith(inside)]
    if not outside:
        return []
    return [
        f"{len(outside):,} of its files are named outside of {folders[0]}, the first {shown(outside[0])}: they are read"
    ]


def choose_sets(found: Iterable[str], asked: Sequence[str], place: object) -> list[str]:
    """The sets to write, training first.

    Args:
        found: names of all that are there.
        asked: the wanted ones; none: all.
        place: where they were found, for the message.

    Raises:
        ShardError: one is not there.
    """
    there = sorted(found, key=lambda name: (SPLITS.index(set_named(name) or "train"), name))
    for name in asked:
        if name not in there:
            listed = (
                ", ".join(one for one in there if one) or "one without a name, for which --sets is not needed"
            )
            raise ShardError(
                f"--sets {name}: {place} has no such set.{nearest(name, there)} There are: {listed}."
            )
    return [name for name in there if not asked or name in asked]


def object_label(
    task: str,
    classes: Sequence[str],
    read: Mapping[str, AnnotatedRows],
    options: Mapping[str, Any] | None,
    own: Mapping[str, Any] | None = None,
) -> list[Label]:
    """The label of rows with boxes or points, with room for the picture with the most of them.

    Args:
        task: a name for it.
        classes: all of them.
        read: the sets.
        options: that the user gave.
        own: options that the labels need.
    """
    most = max((found.most for found in read.values()), default=0)
    needed = {**(own or {}), **({"max_objects": most} if most > MOST_OBJECTS else {})}
    return LabelKinds(options=options).build([FoundLabel(BOXES, task, tuple(classes), needed)])


def mask_label(task: str, classes: Sequence[str] | None, options: Mapping[str, Any] | None) -> list[Label]:
    """The label of rows with masks; with more classes than a byte holds, the pixels of no class are 65535.

    Raises:
        ShardError: `ignore_index` is a class.
    """
    number = len(classes or ())
    needed = {"ignore_index": _TWO_BYTES} if number > _BYTE else {}
    found = FoundLabel(MASK, task, None if classes is None else tuple(classes), needed)
    labels = LabelKinds(options=options).build([found])
    ignored = ignored_number(labels)
    if ignored < number or ignored > _TWO_BYTES:
        raise ShardError(
            f"--ignore-index {ignored}: masks with {number} classes need a number from {number} to {_TWO_BYTES}."
        )
    return labels


def ignored_number(labels: Sequence[Label]) -> int:
    """The number of pixels without a class in masks with this label."""
    return int(labels[0].kind.describe()["ignore_index"])


def with_background(names: Sequence[str]) -> tuple[str, ...]:
    """The classes of masks whose pixels may show none of the objects."""
    return (BACKGROUND, *(name for name in names if name != BACKGROUND))


def refuse(place: object, findings: Sequence[str], remedy: str) -> None:
    """Refuse annotations with all that was found in them.

    Raises:
        ShardError: something was.
    """
    if findings:
        more = f"; and {len(findings) - _SHOWN:,} more" if len(findings) > _SHOWN else ""
        raise ShardError(f"{place}: {'; '.join(findings[:_SHOWN])}{more}. {remedy}")


def refuse_class_names(place: object, names: Sequence[str]) -> None:
    """Refuse names of classes that are empty or given twice.

    Raises:
        ShardError: with the name.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice or not all(names):
        said = (
            f"the class {twice[0]!r} is named {names.count(twice[0])} times"
            if twice
            else "a class has no name"
        )
        raise ShardError(f"{place}: {said}. Give every class a name of its own.")


def _called(name: str) -> str:
    return f"the set {name}" if name else "these annotations"
