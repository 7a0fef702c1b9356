"""Numbers that people write: in the options of a kind of task, and in labels."""

import math
from typing import Any

from distill_mtl.errors import UserError

_LARGEST = 3.4e38
"""Of float32, in which labels and what is made of them are kept."""


def is_number(value: Any) -> bool:
    """Whether a value from YAML or JSON is a number that float32 can hold; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


def whole_number(name: str, value: Any, *, least: int) -> int:
    """An option that counts something.

    Raises:
        UserError: it is no whole number from `least` on.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**31:
        raise UserError(f"options.{name} must be a whole number from {least}, found {value!r}.")
    return value


def number(name: str, value: Any, *, below: float = math.inf) -> float:
    """An option that is a weight or a share.

    Raises:
        UserError: it is no number from 0 on, or not below `below`.
    """
    if not is_number(value) or not 0 <= value < below:
        end = f" and below {below:g}" if below < math.inf else ""
        raise UserError(f"options.{name} must be a number from 0{end}, found {value!r}.")
    return float(value)


def positive_number(name: str, value: Any) -> float:
    """An option that is a unit or a size.

    Raises:
        UserError: it is no number above 0.
    """
    if not is_number(value) or value <= 0:
        raise UserError(f"options.{name} must be a number above 0, found {value!r}.")
    return float(value)
