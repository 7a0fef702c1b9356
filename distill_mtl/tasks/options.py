"""Options of a kind of task, as a recipe gives them: numbers, and classes that a mirror swaps.

Where a left hand becomes a right one in a mirrored picture, labels have to change (`mirrored`); teachers see the
mirrored picture themselves.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from distill_mtl.errors import UserError, a_few, nearest

_LARGEST = 3.4e38
"""Of float32, in which labels and what is made of them are kept."""


def is_number(value: Any) -> bool:
    """Whether a value from YAML or JSON is a number that float32 can hold; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


def whole_number(name: str, value: Any, *, least: int) -> int:
    """An option that counts something.

    Raises:
        UserError: it is not a whole number from `least` on.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**31:
        raise UserError(f"options.{name} must be a whole number from {least}, found {value!r}.")
    return value


def number(name: str, value: Any, *, below: float = math.inf) -> float:
    """An option that is a weight or a share.

    Raises:
        UserError: it is not a number of 0 or more, or not below `below`.
    """
    if not is_number(value) or not 0 <= value < below:
        end = f" and below {below:g}" if below < math.inf else ""
        raise UserError(f"options.{name} must be a number from 0{end}, found {value!r}.")
    return float(value)


def share(name: str, value: Any) -> float:
    """An option from 0 to 1.

    Raises:
        UserError: it is something else.
    """
    if not is_number(value) or not 0 <= value <= 1:
        raise UserError(f"options.{name} must be a number from 0 to 1, found {value!r}.")
    return float(value)


def positive_number(name: str, value: Any) -> float:
    """An option that is a unit or a size.

    Raises:
        UserError: it is not a number above 0.
    """
    if not is_number(value) or value <= 0:
        raise UserError(f"options.{name} must be a number above 0, found {value!r}.")
    return float(value)


Pairs = tuple[tuple[str, str], ...]


def read_mirrored(said: Any, classes: Sequence[str]) -> Pairs:
    """The pairs of class names that a recipe's option lists.

    Args:
        said: a list of pairs of names, such as [[left_hand, right_hand]].
        classes: names of the task's classes.

    Raises:
        UserError: it is not a list of pairs, or a name is unknown or named twice.
    """
    if not isinstance(said, list | tuple) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in said
    ):
        raise UserError(f"options.mirrored is a list of pairs such as [[left, right]], found {said}.")
    pairs = tuple((str(left), str(right)) for left, right in said)
    named = [name for pair in pairs for name in pair]
    for name in named:
        if name not in classes:
            raise UserError(
                f"options.mirrored: the task has no class '{name}'.{nearest(name, classes)} Classes: {a_few(classes)}."
            )
    if repeated := sorted({name for name in named if named.count(name) > 1}):
        raise UserError(
            f"options.mirrored: a class changes places with one other, found more than once: {', '.join(repeated)}."
        )
    return pairs


def mirror_partners(pairs: Pairs, classes: Sequence[str]) -> list[int]:
    """The number of the class that every class becomes, its own where it stays."""
    becomes = {left: right for pair in pairs for left, right in (pair, pair[::-1])}
    place = {name: number for number, name in enumerate(classes)}
    return [place[becomes.get(name, name)] for name in classes]


def swap_classes(numbers: Tensor, partner: Sequence[int]) -> Tensor:
    """Class numbers int64 [...] after the mirror; what is not a class number, such as ignored pixels, stays."""
    within = (numbers >= 0) & (numbers < len(partner))
    return torch.where(within, torch.tensor(partner)[numbers.where(within, 0)], numbers)
