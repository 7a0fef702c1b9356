"""A folder of pictures and a folder of masks, depth maps or normals, paired by their names."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from distill_mtl.errors import ShardError
from distill_mtl.shards.keys import unique_keys
from distill_mtl.shards.pictures import PICTURES, files_left_out, find_files
from distill_mtl.shards.rows import FileRow, FileRows, Label

DENSE = ("seg.png", "depth.png", "depth.npy", "normals.png", "normals.npy")
_SHOWN = 3


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
) -> FileRows:
    """Pictures with the mask of the same relative path without ending, or else of the same file name.

    Args:
        images, masks: folders; they may be the same one where patterns tell the files apart.
        member: what the second files are, one of `DENSE`.
        strip: ends of names to be taken off before they are compared, such as `_mask`.
        image_pattern, mask_pattern: which files count, such as `*_labelIds.png`.
        allow_missing: leave out pictures without a mask and masks without a picture, instead of refusing them.
        task: a name for the task; default the images' folder.

    Raises:
        ShardError: no such folder or no files; files without partner; two files of the same name.
    """
    images, masks = Path(images), Path(masks)
    found, others = find_files(images, PICTURES, image_pattern)
    labels, other_labels = find_files(masks, (member.rpartition(".")[2],), mask_pattern)
    by_path = [_by_name(folder, paths, strip) for folder, paths in ((images, found), (masks, labels))]
    if not by_path[0].keys() & by_path[1].keys():
        by_path = [
            _by_name(folder, paths, strip, bare=True) for folder, paths in ((images, found), (masks, labels))
        ]
    pictures, dense = by_path
    alone = sorted(pictures.keys() - dense.keys()), sorted(dense.keys() - pictures.keys())
    both = sorted(pictures.keys() & dense.keys())
    if not both or (any(alone) and not allow_missing):
        _refuse_lonely(
            [pictures[name] for name in alone[0]], [dense[name] for name in alone[1]], images, masks
        )
    left_out = files_left_out(others + (Counter() if masks == images else other_labels)) | {
        "pictures without a mask": len(alone[0]),
        "masks without a picture": len(alone[1]),
    }
    rows = [
        FileRow(key, str(images / pictures[name]), {}, {member: str(masks / dense[name])})
        for key, name in zip(unique_keys(f"{name}." for name in both), both, strict=True)
    ]
    what = {"origin": "pairs", "member": member}
    return FileRows(rows, what, [Label(member, task or images.name)], left_out)


def _by_name(folder: Path, paths: Sequence[str], strip: Sequence[str], bare: bool = False) -> dict[str, str]:
    """What pairs are found by -> path."""
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


def _refuse_lonely(pictures: Sequence[str], masks: Sequence[str], images: Path, labels: Path) -> None:
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
