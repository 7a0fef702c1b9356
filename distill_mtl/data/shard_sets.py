"""Shards as a user names them (a folder, a pattern, some files), sorted into the three sets by their names."""

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from distill_mtl.data.shard_files import expand_braces
from distill_mtl.errors import ShardError
from distill_mtl.folders import walk_folder
from distill_mtl.splits import SPLITS, Split

_ARCHIVES = (".tar", ".tar.gz", ".tgz")
_WORDS: dict[str, Split] = {
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What says in a shard's name which set it belongs to; all other names are training shards."""

Sets = dict[Split, list[str]]


def find_sets(places: Sequence[str], option: str = "--data") -> Sets:
    """Paths and patterns of each set, in the order of their names.

    Args:
        places: folders, whose shards lie at any depth, and paths, patterns and URLs as `shards` takes them.
        option: that named them, for messages.

    Raises:
        ShardError: a folder without shards, or a pattern that nothing fits.
    """
    sets: Sets = {split: [] for split in SPLITS}
    for place in places:
        folder = Path(place)
        if os.path.isdir(folder):
            found = [str(folder / path) for path in walk_folder(folder).ending(_ARCHIVES)]
            if not found:
                raise ShardError(f"{option} {place}: there are no shards (*.tar) in this folder.")
            for path in found:
                sets[_set_of(os.path.relpath(path, place))].append(path)
            continue
        for pattern in expand_braces(place, option):
            local = "://" not in pattern and glob.has_magic(pattern)
            found = sorted(glob.glob(os.path.expanduser(pattern))) if local else [pattern]
            if not found:
                raise ShardError(f"{option} {place}: nothing fits {pattern}.")
            for path in found:
                sets[_set_of(path.rpartition("/")[2])].append(path)
    return sets


def set_named(name: str) -> Split | None:
    """The set that the first telling word of a name belongs to: `test/pets-000.tar`, `pets-val-000.tar`.

    None: no word says one. Of shards these are the training ones.
    """
    words = re.findall("[a-z]+", name.lower())
    return next((_WORDS[word] for word in words if word in _WORDS), None)


def _set_of(name: str) -> Split:
    return set_named(name) or "train"


def as_patterns(paths: Sequence[str]) -> str | list[str] | None:
    """The same shards in fewer words: numbers that follow each other as `{000..009}`; None for no shards."""
    runs: list[list[str]] = []
    for path in paths:
        if runs and _follows(runs[-1][-1], path):
            runs[-1].append(path)
        else:
            runs.append([path])
    patterns = [_braced(run) for run in runs]
    return None if not patterns else patterns[0] if len(patterns) == 1 else patterns


def _follows(path: str, following: str) -> bool:
    first, second = _numbered(path), _numbered(following)
    if first is None or second is None or len(first[1]) != len(second[1]):
        return False
    return (first[0], first[2], int(first[1]) + 1) == (second[0], second[2], int(second[1]))


def _braced(run: Sequence[str]) -> str:
    first, last = _numbered(run[0]), _numbered(run[-1])
    if len(run) == 1 or first is None or last is None:
        return run[0]
    return f"{first[0]}{{{first[1]}..{last[1]}}}{first[2]}"


def _numbered(path: str) -> tuple[str, str, str] | None:
    """What stands before, in and after the last number of a path."""
    match = re.fullmatch(r"([^{}]*?)(\d+)([^\d{}]*)", path)
    return (match[1], match[2], match[3]) if match else None
