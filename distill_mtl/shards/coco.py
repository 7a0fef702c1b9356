"""Data sets in COCO's form: a file of annotations for each set, and folders of pictures."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from distill_mtl.data.shard_sets import set_named
from distill_mtl.errors import ShardError, a_few
from distill_mtl.extras import extra
from distill_mtl.folders import walk_folder
from distill_mtl.reading import shown
from distill_mtl.shards.annotations import (
    BACKGROUND,
    BOXES,
    MASK,
    SHORT,
    AnnotatedRows,
    choose_sets,
    ignored_number,
    list_sets,
    mask_label,
    object_label,
    refuse,
    with_background,
)
from distill_mtl.shards.coco_file import Asked, CocoFile, Id, Thing
from distill_mtl.shards.listed_rows import FileRow, ListedRows, named_file
from distill_mtl.shards.masks import CROWD, SEGMENTS, DrawSegments, DrawShapes
from distill_mtl.tasks.label import to_json

_USUAL = {"boxes": "instances_*", "masks": "instances_*", "points": "*keypoints_*"}
"""The files of COCO itself for each label."""
_TRIED = 50  # pictures that are looked for, to find their folder


def coco_sets(
    place: str | Path,
    *,
    label: Asked = "boxes",
    images: str | Path | None = None,
    pattern: str | None = None,
    sets: Sequence[str] = (),
    background: bool = True,
    allow_missing: bool = False,
    task: str = "",
    options: Mapping[str, Any] | None = None,
) -> dict[str, ListedRows]:
    """The sets of a data set in COCO's form, by name; a single file whose name says no set is called as nothing.

    Classes are the categories by id, without gaps. Boxes of crowds and boxes without area are left out and counted.
    Of points a picture is taken if it shows one object at most: a heat map finds one point of each class. Masks are
    drawn as `masks` says; of panoptic files the PNGs lie in a folder called as the file.

    Args:
        place: a file of annotations, or a folder with some, at any depth.
        label: what to write.
        images: folder of the pictures, or of a folder of pictures for each set; default what lies near the file.
        pattern: which files of the folder count, such as `instances_*`.
        sets: the sets to write; default all.
        background: pixels of no object are a class; False: they are unknown.
        allow_missing: leave out pictures that are not there, and annotations of pictures that are not listed.
        task: a name for the task; default the folder's.
        options: of the label's kind.

    Raises:
        ShardError: no such files; files that contradict themselves, each other or the pictures.
        UserError: an invalid option.
    """
    paths = _files(Path(place), pattern, label)
    names = choose_sets(paths, sets, place)
    read = {name: CocoFile.read(paths[name], label, allow_missing) for name in names}
    first = read[names[0]]
    _refuse_other_categories(first, [*read.values()])
    folders = {name: _picture_folder(read[name], name, images) for name in names}
    root = Path(place) if os.path.isdir(place) else Path(place).parent
    within = {name: (root, folder) for name, folder in folders.items()}
    what: dict[str, Any] = {"origin": "coco", "label": label, "background": background}
    what |= {"options": dict(options)} if options else {}
    task = task or Path(place).name
    if label == "masks":
        return _masks(read, folders, within, background, allow_missing, task, options, what)
    make = _boxes_of if label == "boxes" else _points_of
    classes = [*first.names.values()] if label == "boxes" else _point_names(first)
    rows = {name: _objects(read[name], folders[name], make, allow_missing) for name in names}
    own: dict[str, Any] = {"form": "points"} if label == "points" else {}
    if label == "points" and (mirrored := mirrored_points(classes)):
        own["mirrored"] = mirrored
    return list_sets(rows, object_label(task, classes, rows, options, own), what, folders=within)


# ---- files and pictures ---------------------------------------------------------------------------------
def _files(place: Path, pattern: str | None, label: Asked) -> dict[str, Path]:
    """Name of each set -> its file of annotations."""
    if os.path.isfile(place):
        return {SHORT[split] if (split := set_named(place.name)) else "": place}
    if not os.path.isdir(place):
        raise ShardError(f"{place}: there is no such file or folder.")
    there = walk_folder(place).ending(".json")
    wanted = [path for path in there if _fits(path, pattern or _USUAL[label])] or ([] if pattern else there)
    if not wanted:
        listed = f" There are: {a_few(there)}." if there else ""
        raise ShardError(f"{place}: no file of annotations ({pattern or '*.json'}).{listed}")
    found: dict[str, Path] = {}
    for path in wanted:
        folder, name = os.path.split(path)
        split = set_named(name) or set_named(folder)
        key = SHORT[split] if split else "train" * (len(wanted) > 1)
        if key in found:
            raise ShardError(
                f"{place}: {found[key].relative_to(place)} and {path} are both of the set {key}. Say which files count "
                f"with --annotations, such as --annotations '{name}', or name one file in place of the folder."
            )
        found[key] = place / path
    return found


def _fits(path: str, pattern: str) -> bool:
    return fnmatch(os.path.basename(path), pattern) or fnmatch(path, pattern)


def _picture_folder(file: CocoFile, name: str, images: str | Path | None) -> Path:
    """The folder near a file that most of its pictures are in."""
    bases = [Path(images)] if images is not None else [file.path.parent, file.path.parent.parent]
    if images is None:
        bases += [base / "images" for base in bases]
    folders = [folder for base in bases if base.is_dir() for folder in (base, *_sub_folders(base, name))]
    listed = [picture.file for picture in file.pictures.values()]
    tried = [listed[at] for at in np.linspace(0, len(listed) - 1, min(_TRIED, len(listed))).astype(int)]
    found = {folder: sum(os.path.isfile(_path(one, folder)) for one in tried) for folder in folders}
    best = max(folders, key=lambda folder: found[folder], default=None)
    if best is None or not found[best]:
        looked = ", ".join(map(str, folders or bases))
        example = shown(tried[0]) if tried else "the list is empty"
        raise ShardError(
            f"{file.path}: none of its pictures is found ({example}) in {looked}. Name their folder with --images."
        )
    return best


def _sub_folders(base: Path, name: str) -> list[Path]:
    """Those that are called as a set: `val2017`."""
    with os.scandir(base) as entries:
        inside = sorted(entry.name for entry in entries if entry.is_dir())
    named = {inner: set_named(inner) for inner in inside}
    wanted = {SHORT[split]: split for split in SHORT}.get(name, "train")
    return [
        base / inner for inner in inside if (named[inner] or ("train" if "train" in inner else "")) == wanted
    ]


def _path(file: str, folder: Path) -> str:
    try:
        return named_file("file_name", file, folder)
    except ValueError as error:
        raise ShardError(f"{error}.") from None


def _refuse_other_categories(first: CocoFile, files: Sequence[CocoFile]) -> None:
    for other in files:
        mine, theirs = [*first.names.values()], [*other.names.values()]
        if mine != theirs or (first.points != other.points):
            differ = sorted({*mine} ^ {*theirs}) or ["their order, or their keypoints"]
            raise ShardError(
                f"{other.path} has other categories than {first.path}: {a_few(differ)}. All sets have the same "
                "classes: correct one, or write each file by itself."
            )


# ---- rows -----------------------------------------------------------------------------------------------
def _rows(file: CocoFile, folder: Path, allow_missing: bool, texts: Mapping[Id, Any]) -> AnnotatedRows:
    """A row for each picture that is there and has texts, `texts` of its notes or labels."""
    read = AnnotatedRows(left_out=Counter(file.left_out))
    missing = list[str]()
    for number, picture in file.pictures.items():
        if number not in texts:
            continue
        path = _path(picture.file, folder)
        if not os.path.isfile(path):
            missing.append(shown(picture.file))
            continue
        members, files = texts[number]
        read.rows.append(FileRow(picture.file, path, members, files, picture.size))
    if missing and not allow_missing:
        raise ShardError(
            f"{file.path}: {len(missing):,} of {len(file.pictures):,} pictures are not in {folder}: "
            f"{a_few(missing, 5)}. Name another folder with --images, or leave them out with --allow-missing."
        )
    read.left_out["pictures that are not there"] += len(missing)
    return read


def _objects(file: CocoFile, folder: Path, make: Any, allow_missing: bool) -> AnnotatedRows:
    """Rows with a list of objects each."""
    left_out = Counter[str]()
    objects = {number: make(file, file.things.get(number, []), left_out) for number in file.pictures}
    texts: dict[Id, Any] = {
        number: ({BOXES: to_json(found)}, {}) for number, found in objects.items() if found is not None
    }
    read = _rows(file, folder, allow_missing, texts)
    read.left_out.update(left_out)
    read.most = max((len(found) for found in objects.values() if found), default=0)
    return read


def _boxes_of(file: CocoFile, things: Sequence[Thing], left_out: Counter[str]) -> list[dict[str, Any]]:
    return [{"class": file.names[thing.category], "box": thing.value} for thing in things]  # type: ignore[index]


def _points_of(
    file: CocoFile, things: Sequence[Thing], left_out: Counter[str]
) -> list[dict[str, Any]] | None:
    """The points of a picture; None: a heat map cannot hold them."""
    posed = [thing for thing in things if thing.category is not None and file.points[thing.category]]
    if not posed:
        return []
    if len(posed) > 1 or posed[0].crowd:
        left_out["pictures with several objects (of points a heat map finds one of each class)"] += 1
        return None
    category, _, values = posed[0]
    assert category is not None
    names, several = file.points[category], sum(map(bool, file.points.values())) > 1
    if values and len(values) != 3 * len(names):
        raise ShardError(
            f"{file.path}: an annotation has {len(values) // 3} keypoints, and {file.names[category]} has {len(names)}."
            " Correct the file."
        )
    points = [
        {"class": _point_name(file.names[category], name, several), "point": [x, y]}
        for name, x, y, seen in zip(names, values[::3], values[1::3], values[2::3], strict=False)
        if seen
    ]
    if not points:
        left_out["pictures whose object has no labelled point"] += 1
        return None
    return points


def _point_name(category: str, point: str, several: bool) -> str:
    return f"{category}/{point}" if several else point


def _point_names(file: CocoFile) -> list[str]:
    owners = {number: names for number, names in file.points.items() if names}
    if not owners:
        raise ShardError(
            f"{file.path}: no category has keypoints. Write its boxes with --label boxes, or choose another file."
        )
    return [
        _point_name(file.names[number], name, len(owners) > 1)
        for number, names in owners.items()
        for name in names
    ]


def mirrored_points(names: Sequence[str]) -> list[list[str]]:
    """Points that change places in a mirror, by their names: `left_eye`, `Right Eye`."""
    pairs = (
        (name, name.replace(left, right))
        for name in names
        for left, right in (("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT"))
    )
    return [[name, other] for name, other in pairs if other != name and other in names]


# ---- masks ----------------------------------------------------------------------------------------------
def _masks(
    read: Mapping[str, CocoFile],
    folders: Mapping[str, Path],
    within: Mapping[str, Sequence[Path]],
    background: bool,
    allow_missing: bool,
    task: str,
    options: Mapping[str, Any] | None,
    what: Mapping[str, object],
) -> dict[str, ListedRows]:
    files = [*read.values()]
    panoptic = files[0].panoptic
    if other := next((file for file in files if file.panoptic != panoptic), None):
        raise ShardError(
            f"{files[0].path} and {other.path}: one has pictures of segments, the other objects. Write each by itself."
        )
    names = [*files[0].names.values()]
    filled = background and not panoptic
    classes = with_background(names) if filled else tuple(names)
    number = {key: classes.index(name) for key, name in files[0].names.items()}
    labels = mask_label(task, classes, options)
    if panoptic:
        rows = {name: _segment_rows(read[name], folders[name], allow_missing, number) for name in read}
        return list_sets(rows, labels, what, DrawSegments(ignored_number(labels)), within)
    if any(_has_polygons(file) for file in files):
        extra("pycocotools.mask", "coco", "drawing masks of polygons")
    rows = {name: _shape_rows(read[name], folders[name], allow_missing, number) for name in read}
    ignored = ignored_number(labels)
    fill = classes.index(BACKGROUND) if filled else ignored
    return list_sets(rows, labels, what, DrawShapes(fill, ignored), within)


def _has_polygons(file: CocoFile) -> bool:
    return any(thing.value.startswith("[") for found in file.things.values() for thing in found)


def _shape_rows(file: CocoFile, folder: Path, allow_missing: bool, number: Mapping[Id, int]) -> AnnotatedRows:
    texts: dict[Id, Any] = {}
    for key in file.pictures:
        shapes = [
            f"[{CROWD if thing.crowd else number[thing.category]}, {thing.value}]"  # type: ignore[index]
            for thing in file.things.get(key, [])
        ]
        texts[key] = ({MASK: f"[{', '.join(shapes)}]".encode()}, {})
    return _rows(file, folder, allow_missing, texts)


def _segment_rows(
    file: CocoFile, folder: Path, allow_missing: bool, number: Mapping[Id, int]
) -> AnnotatedRows:
    segments, findings, without = file.path.with_suffix(""), list[str](), 0
    texts: dict[Id, Any] = {}
    for key, picture in file.pictures.items():
        found = file.things.get(key, [])
        if len(found) != 1:
            without += not found
            if found or not allow_missing:
                findings.append(f"the picture {shown(picture.file)} has {len(found)} pictures of segments")
            continue
        name, pairs = found[0].value
        numbered = [[segment, number[category]] for segment, category in json.loads(pairs)]
        texts[key] = ({SEGMENTS: to_json(numbered)}, {MASK: _path(name, segments)})
    remedy = "Each picture has one; those without are left out with --allow-missing."
    refuse(file.path, findings, remedy)
    if texts and not segments.is_dir():
        raise ShardError(f"{file.path}: the folder of its pictures of segments, {segments}, is not there.")
    read = _rows(file, folder, allow_missing, texts)
    read.left_out["pictures without a picture of segments"] += without
    return read
