"""Classes that change places when a picture is mirrored: a left hand becomes a right one.

Kinds of task with an option `mirrored` read it here. Only labels need it: teachers see the mirrored
picture themselves.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from distill_mtl.errors import UserError, nearest

Pairs = tuple[tuple[str, str], ...]


def read_pairs(said: Any, classes: Sequence[str]) -> Pairs:
    """The pairs of class names that a recipe's option lists.

    Args:
        said: a list of pairs of names, such as [[left_hand, right_hand]].
        classes: names of the task's classes.

    Raises:
        UserError: it is no list of pairs, or a name is unknown or named twice.
    """
    if not isinstance(said, list | tuple) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in said
    ):
        raise UserError(f"options.mirrored is a list of pairs such as [[left, right]], found {said}.")
    pairs = tuple((str(left), str(right)) for left, right in said)
    named = [name for pair in pairs for name in pair]
    for name in named:
        if name not in classes:
            raise UserError(f"options.mirrored: there is no class '{name}'.{nearest(name, classes)}")
    if repeated := sorted({name for name in named if named.count(name) > 1}):
        raise UserError(
            f"options.mirrored: a class changes places with one other, found more than once: {', '.join(repeated)}."
        )
    return pairs


def partners(pairs: Pairs, classes: Sequence[str]) -> list[int]:
    """The number of the class that every class becomes, its own where it stays."""
    becomes = {left: right for pair in pairs for left, right in (pair, pair[::-1])}
    return [classes.index(becomes.get(name, name)) for name in classes]


def swapped(numbers: Tensor, partner: Sequence[int]) -> Tensor:
    """Class numbers int64 [...] after the mirror; what is no class number, such as ignored pixels, stays."""
    within = (numbers >= 0) & (numbers < len(partner))
    return torch.where(within, torch.tensor(partner)[numbers.where(within, 0)], numbers)
