"""Labels of kinds that answer with a vector: JSON, by position or by name."""

import json
from collections.abc import Sequence
from typing import Any, NoReturn

from distill_mtl.errors import nearest

_SHOWN = 40  # characters of a value in a message


def read_vector(payload: bytes, names: Sequence[str]) -> list[Any]:
    """One JSON value per name, None where nothing is known.

    Args:
        payload: a list with a value for every name, an object from some of the names to values, or, where there
            is one name, the value alone.
        names: in the order of the result.

    Raises:
        ValueError: it is none of these, in words for the user.
    """
    try:
        read = json.loads(payload, parse_constant=_no_number)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise ValueError(f"the label is not JSON: {payload[:16]!r}.") from None
    if isinstance(read, dict):
        for name in read:
            if name not in names:
                raise ValueError(f"the label names '{name}', which the task does not.{nearest(name, names)}")
        return [read.get(name) for name in names]
    values = read if isinstance(read, list) else [read]
    if len(values) != len(names):
        raise ValueError(f"the label has {len(values)} values, the task {len(names)} names.")
    return values


def shown(value: Any) -> str:
    """A value of a label in a message."""
    return json.dumps(value)[:_SHOWN]


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"the label holds {constant}; write null where nothing is known.")
