"""Data sets in PASCAL VOC's form: `Annotations/*.xml`, `JPEGImages`, `ImageSets`, `SegmentationClass`.

After the development kit of VOC 2012 (Everingham et al.). Its boxes count pixels from 1 and hold the last one; programs
that draw boxes often write them from 0 on, which is told by a box that begins there. All annotations of the folder
decide on that and on the classes, so that sets that are written one by one agree.
"""

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple
from xml.etree.ElementTree import Element

from rich.console import Console

from distill_mtl.display import Display
from distill_mtl.errors import ShardError, a_few
from distill_mtl.folders import walk_folder
from distill_mtl.geometry.views import Size
from distill_mtl.picture_bytes import PICTURE_ENDINGS
from distill_mtl.reading import Remedy, read_text, read_xml, shown
from distill_mtl.shards.annotations import (
    BACKGROUND,
    BOXES,
    MASK,
    AnnotatedRows,
    choose_sets,
    list_sets,
    mask_label,
    object_label,
    refuse,
)
from distill_mtl.shards.listed_rows import FileRow, ListedRows
from distill_mtl.tasks.label import to_json

TWENTY = (
    *(
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "diningtable",
        "dog",
    ),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""The classes of VOC's own masks, from number 1 on."""
_LISTS = {"boxes": "Main", "masks": "Segmentation"}
_BOTH = "trainval"  # the union of two other lists
_REMEDY = Remedy("Correct it, or remove it together with its picture.", ShardError)


class _Box(NamedTuple):
    """An object: class, and corners as the file says them."""

    name: str
    left: float
    top: float
    right: float
    bottom: float


class _Picture(NamedTuple):
    """A picture and its objects; height and width if they are said."""

    path: str
    size: Size | None
    boxes: list[_Box]


def voc_sets(
    place: str | Path,
    *,
    label: Literal["boxes", "masks"] = "boxes",
    sets: Sequence[str] = (),
    classes: Sequence[str] = (),
    keep_difficult: bool = False,
    allow_missing: bool = False,
    task: str = "",
    options: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> dict[str, ListedRows]:
    """The sets of a data set in VOC's form, by the names of their lists; without lists all of it, called as nothing.

    Args:
        place: the folder that holds `Annotations` or `SegmentationClass`, or one above it.
        label: what to write. Masks are copied as they are.
        sets: the lists to write; default all but `trainval` beside `train` and `val`.
        classes: default of boxes the names in all annotations of the folder, sorted; of masks VOC's twenty where the
            files say that they are VOC's, else numbers.
        keep_difficult: objects that are flagged as difficult are objects too.
        allow_missing: leave out rows without a picture, annotation or mask, instead of refusing them.
        task: a name for the task; default the folder's.
        options: of the label's kind.
        console: where progress is shown; default nowhere.

    Raises:
        ShardError: no such folder; files that are missing, that cannot be read, or that contradict themselves.
        UserError: an invalid option.
    """
    root = _root(Path(place), label)
    lists = _lists(root, label)
    if not sets and {"train", "val"} <= lists.keys():
        lists.pop(_BOTH, None)
    chosen = {name: lists[name] for name in choose_sets(lists, sets, root)}
    pictures = _by_name(root / "JPEGImages", PICTURE_ENDINGS)
    what: dict[str, Any] = {"origin": "voc", "label": label, "keep difficult": keep_difficult}
    what |= {"options": dict(options)} if options else {}
    task = task or root.name
    if label == "masks":
        masks = _by_name(root / "SegmentationClass", ("png",))
        read = {
            name: _mask_rows(root, names, pictures, masks, allow_missing) for name, names in chosen.items()
        }
        named = classes or _mask_classes(root, masks)
        return list_sets(read, mask_label(task, named, options), what)
    files = _by_name(root / "Annotations", ("xml",))
    found, left_out = _read_boxes(root, chosen, pictures, files, keep_difficult, allow_missing, console)
    read_already = {name for some in chosen.values() for name in some if name in pictures}
    others = [file for name, file in files.items() if name not in read_already]
    every = [box for some in found.values() for one in some for box in one.boxes]
    every += _boxes_outside(others, keep_difficult, console)
    from_zero = any(min(box.left, box.top) < 1 for box in every)
    names = [*classes] or sorted({box.name for box in every})
    if not names:
        raise ShardError(f"{root / 'Annotations'}: no file names an object. Name the classes with --classes.")
    read = {}
    for name, some in found.items():
        rows = [_row(one, names, from_zero, root, left_out[name]) for one in some]
        notes = [
            "boxes begin at pixel 0: they are read as edges counted from 0, not as pixels from 1"
        ] * from_zero
        most = max((len(one.boxes) for one in some), default=0)
        read[name] = AnnotatedRows(rows, left_out[name], most, notes)
    return list_sets(read, object_label(task, names, read, options), what)


# ---- folders and lists ------------------------------------------------------------------------------------
def _root(place: Path, label: str) -> Path:
    """The folder that holds the parts."""
    part = "Annotations" if label == "boxes" else "SegmentationClass"
    if not os.path.isdir(place):
        raise ShardError(f"{place}: there is no such folder.")
    levels = (sorted(path.parent for path in place.glob(f"{above}{part}")) for above in ("", "*/", "*/*/"))
    roots = next((found for found in levels if found), [])
    if not roots:
        raise ShardError(f"{place}: a folder {part} is expected in it.")
    if len(roots) > 1:
        raise ShardError(f"{place}: there are {a_few([str(path) for path in roots])}. Name one of them.")
    if not (roots[0] / "JPEGImages").is_dir():
        raise ShardError(f"{roots[0]}: a folder JPEGImages is expected beside {part}.")
    return roots[0]


def _by_name(folder: Path, endings: Sequence[str]) -> dict[str, str]:
    """Name without ending -> path."""
    found: dict[str, str] = {}
    for file in walk_folder(folder).files:
        name, ending = os.path.splitext(os.path.basename(file))
        if ending[1:].lower() not in endings:
            continue
        if name in found:
            raise ShardError(
                f"{folder}: {os.path.basename(found[name])} and {file} are both called '{name}'."
            )
        found[name] = str(folder / file)
    return found


def _lists(root: Path, label: str) -> dict[str, list[str]]:
    """Name of each list of pictures -> the names in it."""
    folder = root / "ImageSets" / _LISTS[label]
    files = sorted(folder.glob("*.txt")) if folder.is_dir() else []
    # Lists of one class, `cat_train.txt`, have a number behind each name.
    own = {file.stem: file for file in files}
    whole = [name for name in own if not any(name.endswith(f"_{other}") for other in own)]
    lists = {name: _listed(own[name]) for name in whole}
    if lists:
        return lists
    part = root / ("Annotations" if label == "boxes" else "SegmentationClass")
    return {"": sorted(_by_name(part, ("xml", "png")))}


def _listed(file: Path) -> list[str]:
    names = [line.split()[0] for line in read_text(file, remedy=_REMEDY).splitlines() if line.strip()]
    twice = [name for name, count in Counter(names).items() if count > 1]
    refuse(file, [f"{shown(name)} is listed twice" for name in twice], "Correct the list.")
    return names


def _there(
    root: Path, names: Sequence[str], files: Mapping[str, Mapping[str, str]], allow_missing: bool
) -> tuple[list[str], Counter[str]]:
    """The names for which all files are there.

    Args:
        root: of the data set, for the message.
        names: that are listed.
        files: what is needed -> name -> path.
        allow_missing: leave out the others.
    """
    left_out = Counter[str]()
    for what, found in files.items():
        if missing := [name for name in names if name not in found]:
            if not allow_missing:
                raise ShardError(
                    f"{root}: {len(missing):,} of {len(names):,} rows have no {what}: {a_few(missing, 5)}. Such rows "
                    "are left out with --allow-missing."
                )
            left_out[f"rows without {what}"] += len(missing)
            names = [name for name in names if name in found]
    return [*names], left_out


# ---- masks ------------------------------------------------------------------------------------------------
def _mask_rows(
    root: Path,
    names: Sequence[str],
    pictures: Mapping[str, str],
    masks: Mapping[str, str],
    allow_missing: bool,
) -> AnnotatedRows:
    there, left_out = _there(root, names, {"picture": pictures, "mask": masks}, allow_missing)
    rows = [FileRow(f"{name}.", pictures[name], {}, {MASK: masks[name]}) for name in there]
    return AnnotatedRows(rows, left_out)


def _mask_classes(root: Path, masks: Iterable[str]) -> tuple[str, ...] | None:
    """VOC's own where the annotations say that they are VOC's; else only the masks number the classes, and which number
    is which nobody says."""
    folder = root / "Annotations"
    files = _by_name(folder, ("xml",)) if folder.is_dir() else {}
    described = [files[name] for name in masks if name in files]
    own = described and all(_is_vocs_own(read_xml(file, remedy=_REMEDY)) for file in described)
    return (BACKGROUND, *TWENTY) if own else None


def _is_vocs_own(tree: Element) -> bool:
    """Whether a file says so, and names no class that VOC does not have. Other data sets have some of its classes, too,
    under numbers of their own."""
    said = any("VOC" in (tree.findtext(key) or "") for key in ("source/database", "folder"))
    return said and all((thing.findtext("name") or "").strip() in TWENTY for thing in tree.iter("object"))


# ---- boxes ------------------------------------------------------------------------------------------------
def _read_boxes(
    root: Path,
    lists: Mapping[str, Sequence[str]],
    pictures: Mapping[str, str],
    files: Mapping[str, str],
    keep_difficult: bool,
    allow_missing: bool,
    console: Console | None,
) -> tuple[dict[str, list[_Picture]], dict[str, Counter[str]]]:
    """Of each set the pictures with their objects, and what is left out."""
    found: dict[str, list[_Picture]] = {}
    left_out: dict[str, Counter[str]] = {}
    findings = list[str]()
    total, done = sum(map(len, lists.values())), 0
    with Display(console or Console(quiet=True), "reading labels", total, unit="file") as display:
        for name, listed in lists.items():
            needed = {"annotation": files, "picture": pictures}
            there, left_out[name] = _there(root, listed, needed, allow_missing)
            found[name] = []
            for one in there:
                tree = read_xml(files[one], remedy=_REMEDY)
                try:
                    boxes = _boxes(tree, keep_difficult, left_out[name])
                    found[name].append(_Picture(pictures[one], _size(tree), boxes))
                except ValueError as error:
                    findings.append(f"{os.path.relpath(files[one], root)}: {error}")
                display.update(done := done + 1)
    refuse(root, findings, "Correct these files.")
    return found, left_out


def _boxes_outside(files: Sequence[str], keep_difficult: bool, console: Console | None) -> list[_Box]:
    """The objects of files that are not written; those that cannot be read concern the sets that hold them."""
    boxes = list[_Box]()
    with Display(console or Console(quiet=True), "reading other labels", len(files), unit="file") as display:
        for number, file in enumerate(files, 1):
            with suppress(ShardError, ValueError):
                boxes += _boxes(read_xml(file, remedy=_REMEDY), keep_difficult, Counter())
            display.update(number)
    return boxes


def _boxes(tree: Element, keep_difficult: bool, left_out: Counter[str]) -> list[_Box]:
    """The objects in a file.

    Raises:
        ValueError: one is incomplete.
    """
    boxes = []
    for number, thing in enumerate(tree.iter("object"), 1):
        where = f"object {number}"
        name, corners = (thing.findtext("name") or "").strip(), thing.find("bndbox")
        if not name or corners is None:
            raise ValueError(f"{where} has no {'bndbox' if name else 'name'}")
        left, top, right, bottom = (
            _number(corners.findtext(side), f"{where}, {side}") for side in ("xmin", "ymin", "xmax", "ymax")
        )
        if right < left or bottom < top:
            raise ValueError(f"{where} ends ({right:g}, {bottom:g}) before it begins ({left:g}, {top:g})")
        if not keep_difficult and (thing.findtext("difficult") or "0").strip() == "1":
            left_out["objects that are flagged as difficult"] += 1
        else:
            boxes.append(_Box(name, left, top, right, bottom))
    return boxes


def _size(tree: Element) -> Size | None:
    """Height and width that the file says."""
    said = [tree.findtext(f"size/{side}") for side in ("height", "width")]
    if not all(text and text.strip() for text in said):
        return None
    height, width = (int(_number(text, "size")) for text in said)
    return (height, width) if height and width else None


def _number(text: str | None, where: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{where} is {shown(text or '')}, and a number is expected")
    return value


def _row(
    picture: _Picture, names: Sequence[str], from_zero: bool, root: Path, left_out: Counter[str]
) -> FileRow:
    first = 0 if from_zero else 1
    strange = next((box.name for box in picture.boxes if box.name not in names), None)
    if strange is not None:
        raise ShardError(f"{root}: {picture.path} shows the class {shown(strange)}, which --classes lacks.")
    boxes = [
        [box.left - first, box.top - first, box.right - box.left + first, box.bottom - box.top + first]
        for box in picture.boxes
    ]
    objects = [
        {"class": one.name, "box": box}
        for one, box in zip(picture.boxes, boxes, strict=True)
        if min(box[2:]) > 0
    ]
    left_out["boxes without area"] += len(boxes) - len(objects)
    return FileRow(os.path.basename(picture.path), picture.path, {BOXES: to_json(objects)}, {}, picture.size)
