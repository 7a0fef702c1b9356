"""JSON of kinds of task: labels with a value per name, and answers as plain values."""

import json
import math
from collections.abc import Sequence
from typing import Any, NoReturn

from torch import Tensor

from distill_mtl.errors import a_few, nearest

NOT_KNOWN = ("", "nan", "na", "null", "none", "?")
"""What cells of a table say where nothing is known, as `cell_text` gives them."""
_DIGITS = 7
"""More a float32 does not hold."""
_SHOWN = 40  # characters of a value in a message


def read_vector(payload: bytes, names: Sequence[str]) -> list[Any]:
    """One JSON value per name, None where nothing is known.

    Args:
        payload: a list with a value for every name, an object from some of the names to values, or, where there
            is one name, the value alone.
        names: in the order of the result.

    Raises:
        ValueError: it is none of these, with a text for the user.
    """
    try:
        read = json.loads(payload, parse_constant=_no_number)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise ValueError(
            f"the label is not JSON, it begins with {first_characters(payload)}. Expected a list in the order of the "
            "task's names, or an object from names to values. Is this the right kind and member?"
        ) from None
    if isinstance(read, dict):
        for name in read:
            if name not in names:
                raise ValueError(
                    f"the label names '{name}', which the task does not.{nearest(name, names)} The task names "
                    f"{a_few(names)}."
                )
        return [read.get(name) for name in names]
    values = read if isinstance(read, list) else [read]
    if len(values) != len(names):
        raise ValueError(f"the label has {len(values)} values, the task {len(names)} names.")
    return values


def cell_text(cell: Any) -> str:
    """A cell of a table as text in small letters: text of CSV and values of JSON alike."""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return "" if cell is None else str(cell).strip().lower()


def short_json(value: Any) -> str:
    """A value of a label in a message."""
    return json.dumps(value)[:_SHOWN]


def first_characters(payload: bytes) -> str:
    """The first characters of a label in a message."""
    return json.dumps(payload[:16].decode(errors="replace"), ensure_ascii=False)


def plain_values(values: Tensor) -> Any:
    """Numbers, or nested lists of them, with as many digits as float32 has; None for what is not finite."""
    return _plain_value(values.tolist())


def likeliest_classes(classes: Sequence[str], probabilities: Tensor, most: int) -> list[dict[str, Any]]:
    """The likeliest classes, likeliest first.

    Args:
        classes: C names.
        probabilities: [C].
        most: how many at most.
    """
    best = probabilities.topk(min(most, len(classes)))
    return [
        {"label": classes[place], "probability": plain_values(probability)}
        for probability, place in zip(best.values, best.indices.tolist(), strict=True)
    ]


def _plain_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain_value(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    return value


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"the label holds {constant}; write null for an unknown value.")
