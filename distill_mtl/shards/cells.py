"""The cells of a table as members of a shard: text of CSV and values of JSON alike."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from distill_mtl.shards.class_names import class_label
from distill_mtl.shards.members import check_things
from distill_mtl.shards.rows import LabelError

Cells = Mapping[str, Any]

_BITS = {"1": 1, "true": 1, "yes": 1, "0": 0, "-1": 0, "false": 0, "no": 0}
_NOT_KNOWN = ("", "nan", "na", "null", "none", "?")


def is_empty(cell: Any) -> bool:
    """Whether nothing stands in the cell."""
    return cell is None or (isinstance(cell, str) and not cell.strip())


def class_cell(cells: Cells) -> bytes:
    """One column: the name or number of a class.

    Raises:
        LabelError: neither.
    """
    (column, cell), *_ = cells.items()
    if isinstance(cell, bool) or not isinstance(cell, str | int):
        raise LabelError(f"{column} is {cell!r}; the name or number of a class is expected")
    text = class_label(str(cell))
    if text.startswith("-") and text[1:].isdecimal():
        raise LabelError(
            f"{column} is {text}; class numbers begin at 0. Rows without a class have an empty cell"
        )
    return text.encode()


def attribute_cells(cells: Cells) -> bytes:
    """Several columns of 1 and 0 (or -1, as CelebA writes it); nothing where it is not known.

    Raises:
        LabelError: something else in one of them.
    """
    return _json({column: _bit(column, cell) for column, cell in cells.items()})


def value_cells(cells: Cells) -> bytes:
    """Several columns of numbers, or one; nothing where it is not known.

    Raises:
        LabelError: something else in one of them.
    """
    values = {column: _number(column, cell) for column, cell in cells.items()}
    return _json(values if len(values) > 1 else next(iter(values.values())))


def box_cell(cells: Cells) -> bytes:
    """One column of JSON: boxes and points.

    Raises:
        LabelError: something else.
    """
    (column, cell), *_ = cells.items()
    try:
        return _json(check_things(json.loads(cell) if isinstance(cell, str) else cell))
    except LabelError as error:
        raise LabelError(f"{column}: {error}") from None
    except ValueError:
        raise LabelError(f"{column} is not JSON: {str(cell)[:60]}") from None


CELLS: dict[str, Callable[[Cells], bytes]] = {
    "cls": class_cell,
    "attributes.json": attribute_cells,
    "values.json": value_cells,
    "boxes.json": box_cell,
}
"""Member -> its content from the cells of its columns."""


def _bit(column: str, cell: Any) -> int | None:
    text = _text(cell)
    if text in _NOT_KNOWN:
        return None
    if text not in _BITS:
        raise LabelError(
            f"{column} is {cell!r}; 0 or 1 (or -1 and 1) is expected, and nothing where it is not known"
        )
    return _BITS[text]


def _number(column: str, cell: Any) -> float | int | None:
    text = _text(cell)
    if text in _NOT_KNOWN:
        return None
    try:
        number = float(text)
    except ValueError:
        raise LabelError(
            f"{column} is {cell!r}; a number is expected, and nothing where it is not known"
        ) from None
    if not math.isfinite(number):
        raise LabelError(f"{column} is {cell!r}; a finite number is expected")
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _text(cell: Any) -> str:
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return "" if cell is None else str(cell).strip().lower()


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
