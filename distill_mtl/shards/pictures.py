"""The picture files of a folder, at any depth, in an order that no file system changes."""

import os
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

from distill_mtl.errors import ShardError
from distill_mtl.shards.rows import ENDINGS

PICTURES = (*ENDINGS, "bmp", "tif", "tiff", "ppm", "pgm")
"""Endings of picture files; those that readers of shards do not take are written as PNG."""


def find_files(
    folder: Path, endings: tuple[str, ...], pattern: str | None = None
) -> tuple[list[str], Counter[str]]:
    """Paths relative to a folder, sorted; and the endings of files that are left out -> how many.

    Args:
        folder: where to look. Links are followed.
        endings: of the files that are wanted, without a dot.
        pattern: of the files' names or relative paths, such as `*_mask.png`; others are no files of this data set
            and are not counted.

    Raises:
        ShardError: there is no such folder, or nothing in it fits.
    """
    if not folder.is_dir():
        raise ShardError(f"{folder}: there is no such folder.")
    found: list[str] = []
    others: Counter[str] = Counter()
    for place, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        for file in files:
            path = os.path.relpath(os.path.join(place, file), folder)
            if pattern is not None and not (fnmatch(file, pattern) or fnmatch(path, pattern)):
                continue
            ending = os.path.splitext(file)[1].lower()
            if ending[1:] in endings:
                found.append(path)
            else:
                others[ending or file] += 1
    if not found:
        wanted = f"{pattern} with the ending " if pattern is not None else "a file with the ending "
        there = f" There are: {', '.join(sorted(others)[:10])}." if others else ""
        raise ShardError(f"{folder}: no file fits: {wanted}{', '.join(endings)}.{there}")
    return sorted(found), others


def files_left_out(others: Counter[str]) -> dict[str, int]:
    """In words, for the report."""
    return {f"files that are no pictures ({ending})": others[ending] for ending in sorted(others)}
