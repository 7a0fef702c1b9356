"""The three sets of rows, and the hash that cuts the sets for which no shards are named."""

from collections.abc import Iterable, Set
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from distill_mtl.splitmix import text_hash

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
_SHARE = 0.05


def split_by_hash(identities: Iterable[str], cut: Set[Split]) -> NDArray[np.int8]:
    """Which set each row belongs to: 5 % of the rows for each set in `cut`, the rest for training.

    A row's set follows from its identity alone, so it stays where it is when other rows come or go, and
    asking for one set or for both gives the same rows to it.

    Args:
        identities: "source/shard/key" of every row.
        cut: the sets to cut, of "validation" and "test".

    Returns:
        int8 [N], positions in SPLITS.
    """
    places = np.array([text_hash(identity) for identity in identities], dtype=np.uint64) / 2.0**64
    sets = np.zeros(len(places), np.int8)
    if "test" in cut:
        sets[places < _SHARE] = SPLITS.index("test")
    if "validation" in cut:
        sets[(places >= _SHARE) & (places < 2 * _SHARE)] = SPLITS.index("validation")
    return sets
