"""A folder of pictures, whose sub-folders are classes: the form of torchvision's ImageFolder."""

import os
from pathlib import Path

from distill_mtl.data.split import SPLITS
from distill_mtl.errors import ShardError
from distill_mtl.shards.class_names import class_label, list_classes
from distill_mtl.shards.keys import unique_keys
from distill_mtl.shards.pictures import PICTURES, files_left_out, find_files
from distill_mtl.shards.rows import FileRow, FileRows, Label

_SETS = {*SPLITS, "val", "valid", "dev", "training"}


def folder_rows(images: str | Path, *, labelled: bool = True, task: str = "") -> FileRows:
    """The pictures of a folder. The sub-folder that one lies in, at any depth, is its class (member `cls`).

    Args:
        images: the folder. Without sub-folders its pictures are unlabelled.
        labelled: False: sub-folders are no classes.
        task: a name for the task; default the folder's.

    Raises:
        ShardError: no such folder or no pictures; pictures beside the class folders; the sub-folders are sets.
    """
    folder = Path(images)
    found, others = find_files(folder, PICTURES)
    classes = [path.partition(os.sep)[0] if os.sep in path else None for path in found]
    labelled = labelled and any(classes)
    if labelled:
        _refuse_sets(folder, {name for name in classes if name})
        _refuse_pictures_beside_classes(folder, [p for p, c in zip(found, classes, strict=True) if c is None])
    texts = [class_label(name) if labelled and name else "" for name in classes]
    labels = [Label("cls", task or folder.name, list_classes(texts, str(folder)))] if labelled else []
    rows = [
        FileRow(key, str(folder / path), {"cls": text.encode()} if labelled else {}, {})
        for key, path, text in zip(unique_keys(found), found, texts, strict=True)
    ]
    return FileRows(rows, {"origin": "folder", "labelled": labelled}, labels, files_left_out(others))


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
