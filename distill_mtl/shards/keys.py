"""Keys of rows, from the names that their files have."""

import os
import re
from collections.abc import Iterable


def unique_keys(names: Iterable[str]) -> list[str]:
    """A key for each name: `cats/tom.1.jpg` without its ending, and nothing that WebDataset gives a meaning.

    A slash becomes `-`; dots (which end a key), blanks and other signs become `_`. A name whose key is taken gets
    a number behind it, so the same names in the same order have the same keys.
    """
    keys: list[str] = []
    taken: set[str] = set()
    for name in names:
        key = re.sub(r"[^\w-]", "_", os.path.splitext(name)[0].replace(os.sep, "-")).strip("-") or "row"
        # Names like `__meta__` are WebDataset's own.
        key = key.lstrip("_") or "row"
        unique, number = key, 1
        while unique in taken:
            number += 1
            unique = f"{key}-{number}"
        taken.add(unique)
        keys.append(unique)
    return keys
