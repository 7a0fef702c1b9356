"""Folders of pictures: with a sub-folder for each class, or paired with a folder of masks, depth maps or normals.

`find_files` lists the files of a folder, at any depth, in an order that no file system changes.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from distill_mtl.errors import ShardError
from distill_mtl.folders import FolderContent, walk_folder
from distill_mtl.picture_bytes import PICTURE_ENDINGS
from distill_mtl.shards.label_kinds import FoundLabel, Label, LabelKinds
from distill_mtl.shards.listed_rows import FileRow, FileRows, unique_keys
from distill_mtl.splits import SPLITS
from distill_mtl.tasks.label import class_text, list_classes

_SETS = {*SPLITS, "val", "valid", "dev", "training"}
_CLASS = "cls"
_SHOWN = 3


def find_files(folder: Path, endings: tuple[str, ...], pattern: str | None = None) -> FolderContent:
    """The files of a folder that are wanted.

    Args:
        folder: where to look, as `walk_folder` does.
        endings: of the files that are wanted, without a dot.
        pattern: of the files' names or relative paths, such as `*_mask.png`; other files are left out
            and are not counted.

    Raises:
        ShardError: the folder does not exist, or no file in it fits.
        UserError: a folder in it cannot be read.
    """
    if not os.path.isdir(folder):  # of names that no file can have, too
        raise ShardError(f"{folder}: this folder does not exist.")
    content = walk_folder(folder)
    found: list[str] = []
    others: Counter[str] = Counter()
    for path in content.files:
        file = os.path.basename(path)
        if pattern is not None and not (fnmatch(file, pattern) or fnmatch(path, pattern)):
            continue
        ending = os.path.splitext(file)[1].lower()
        if ending[1:] in endings:
            found.append(path)
        else:
            others[ending or file] += 1
    if not found:
        wanted = f"{pattern} with the ending " if pattern is not None else "a file with the ending "
        beside = [*sorted(others)[:10], *(f"{count:,} {what}" for what, count in content.left_out.items())]
        there = f" There are: {', '.join(beside)}." if beside else ""
        raise ShardError(f"{folder}: no file fits: {wanted}{', '.join(endings)}.{there}")
    left_out = {f"files that are not pictures ({ending})": others[ending] for ending in sorted(others)}
    return FolderContent(found, Counter(left_out) + content.left_out)


def folder_rows(images: str | Path, *, labelled: bool = True, task: str = "") -> FileRows:
    """The pictures of a folder. The sub-folder that one lies in, at any depth, is its class (member `cls`).

    Args:
        images: the folder. Without sub-folders its pictures are unlabelled.
        labelled: False: sub-folders are not classes.
        task: a name for the task; default the folder's.

    Raises:
        ShardError: no such folder or no pictures; pictures beside the class folders; the sub-folders are sets.
    """
    folder = Path(images)
    found, others = find_files(folder, PICTURE_ENDINGS)
    classes = [path.partition(os.sep)[0] if os.sep in path else None for path in found]
    labelled = labelled and any(classes)
    if labelled:
        _refuse_sets(folder, {name for name in classes if name})
        _refuse_pictures_beside_classes(folder, [p for p, c in zip(found, classes, strict=True) if c is None])
    texts = [class_text(name) if labelled and name else "" for name in classes]
    labels = _class_label(folder, texts, task or folder.name) if labelled else []
    rows = [
        FileRow(key, str(folder / path), {_CLASS: text.encode()} if labelled else {}, {})
        for key, path, text in zip(unique_keys(found), found, texts, strict=True)
    ]
    return FileRows(rows, {"origin": "folder", "labelled": labelled}, labels, others)


def _class_label(folder: Path, texts: Sequence[str], task: str) -> list[Label]:
    try:
        for name in sorted(set(texts)):
            name.encode()
        classes = list_classes(texts)
    except UnicodeEncodeError as error:
        raise ShardError(
            f"{folder}: the name of its sub-folder {error.object!r} is not UTF-8. Rename it."
        ) from None
    except ValueError as error:
        raise ShardError(f"{folder}: {error}") from None
    return LabelKinds().build([FoundLabel(_CLASS, task, classes)])


def _refuse_sets(folder: Path, classes: set[str]) -> None:
    if {name.lower() for name in classes} <= _SETS:
        first = min(classes)
        raise ShardError(
            f"{folder}: its sub-folders ({', '.join(sorted(classes))}) are sets, not classes. Write each of them: "
            f"distill-mtl shards folder {folder / first} --to ... --name {first}"
        )


def _refuse_pictures_beside_classes(folder: Path, beside: list[str]) -> None:
    if beside:
        raise ShardError(
            f"{folder}: {len(beside):,} pictures lie beside the class folders, first {beside[0]}. Move them to the "
            "folder of their class, or leave all classes out with --unlabelled."
        )


def pair_rows(
    images: str | Path,
    masks: str | Path,
    *,
    member: str = "seg.png",
    strip: Sequence[str] = (),
    image_pattern: str | None = None,
    mask_pattern: str | None = None,
    allow_missing: bool = False,
    task: str = "",
    kinds: Sequence[str] = (),
    trust: bool = False,
    options: Mapping[str, Any] | None = None,
) -> FileRows:
    """Pictures with the mask of the same relative path without ending, or else of the same file name.

    Args:
        images: folder of the pictures.
        masks: folder of the masks; the same one where patterns tell the files apart.
        member: what the second files are, such as `seg.png`, `depth.png`, `depth.npy`, `normals.png`, `normals.npy`.
        strip: ends of names to be taken off before they are compared, such as `_mask`.
        image_pattern: which pictures count, such as `*_left.jpg`.
        mask_pattern: which masks count, such as `*_labelIds.png`.
        allow_missing: leave out pictures without a mask and masks without a picture, instead of refusing them.
        task: a name for the task; default the images' folder.
        kinds: kinds of task of your own, `module:Class`, whose labels the files may be.
        trust: let the code of these kinds run.
        options: of the member's kind, where its defaults do not fit the files, such as {"ignore_index": 11}.

    Raises:
        ShardError: no such folder or no files; files without partner; two files of the same name.
        UserError: an invalid kind or option.
    """
    images, masks = Path(images), Path(masks)
    known = LabelKinds(kinds, trust=trust, options=options)
    if known[member].from_table != "file":
        raise ShardError(
            f"--member {member}: its labels are not files of their own. Those that are: {', '.join(known.pairable())}."
        )
    found, others = find_files(images, PICTURE_ENDINGS, image_pattern)
    labels, other_labels = find_files(masks, (member.rpartition(".")[2],), mask_pattern)
    pictures, dense = (_by_name(*files, strip) for files in ((images, found), (masks, labels)))
    if not pictures.keys() & dense.keys():
        pictures, dense = (_by_name(*files, strip, bare=True) for files in ((images, found), (masks, labels)))
    alone = sorted(pictures.keys() - dense.keys()), sorted(dense.keys() - pictures.keys())
    both = sorted(pictures.keys() & dense.keys())
    if not both or (any(alone) and not allow_missing):
        _refuse_unpaired(
            [pictures[name] for name in alone[0]], [dense[name] for name in alone[1]], images, masks
        )
    left_out = {
        **(others + (Counter() if masks == images else other_labels)),
        "pictures without a mask": len(alone[0]),
        "masks without a picture": len(alone[1]),
    }
    rows = [
        FileRow(key, str(images / pictures[name]), {}, {member: str(masks / dense[name])})
        for key, name in zip(unique_keys(f"{name}." for name in both), both, strict=True)
    ]
    what = {"origin": "pairs", "member": member} | ({"options": dict(options)} if options else {})
    return FileRows(rows, what, known.build([FoundLabel(member, task or images.name)]), left_out)


def _by_name(folder: Path, paths: Sequence[str], strip: Sequence[str], bare: bool = False) -> dict[str, str]:
    """Name by which a file is paired -> its path."""
    names: dict[str, str] = {}
    for path in paths:
        name = os.path.splitext(os.path.basename(path) if bare else path)[0]
        ends = [end for end in strip if name.endswith(end)]
        name = name.removesuffix(max(ends, key=len)) if ends else name
        if name in names:
            raise ShardError(
                f"{folder}: {names[name]} and {path} are both called '{name}'. Say which files count with --images "
                "or --masks: '*_mask.png'."
            )
        names[name] = path
    return names


def _refuse_unpaired(pictures: Sequence[str], masks: Sequence[str], images: Path, labels: Path) -> None:
    findings = [
        f"{len(paths):,} files in {folder} have no partner in {other} ({_examples(paths)})"
        for paths, folder, other in ((pictures, images, labels), (masks, labels, images))
        if paths
    ]
    raise ShardError(
        f"{'; '.join(findings)}. Partners have the same path or file name before the ending. Take off what differs "
        "with --strip _mask, or leave such files out with --allow-missing."
    )


def _examples(paths: Sequence[str]) -> str:
    return ", ".join([*paths[:_SHOWN], *["…"] * (len(paths) > _SHOWN)])
