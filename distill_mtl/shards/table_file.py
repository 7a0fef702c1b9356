"""The file of a table as pandas, Excel and a Mac write it: its columns, and the cells of every line.

Read as what was meant: a byte order mark, UTF-16, any ends of lines, semicolons (with decimal commas) or tabs between
cells, `sep=;`, columns without a name, empty lines, whole numbers as `11.0`, and `NaN` where there is nothing.
"""

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from distill_mtl.errors import ShardError
from distill_mtl.reading import loads, open_regular, stand_in_note

Line = tuple[int, dict[str, Any]]
"""Number in the file, and column -> cell."""

_BETWEEN = {".csv": ",", ".tsv": "\t"}
_OTHERS = ",;\t|"
_NOTHING = ("nan", "<na>", "nat", "#n/a")
"""What pandas and Excel write where there is nothing, in small letters."""
_WHOLE = re.compile(r"[+-]?\d+(\.0*)?")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+(,\d+)?")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def read_table(path: Path) -> tuple[list[Line], list[str]]:
    """All lines that hold anything, and the names of the columns in the order of the file.

    Raises:
        ShardError: the file cannot be read, or is not a table.
    """
    ending = path.suffix.lower()
    if ending != ".jsonl" and ending not in _BETWEEN:
        raise ShardError(f"{path}: a table is a .csv, .tsv or .jsonl file.")
    if note := stand_in_note(path):
        raise ShardError(f"{path}: is not a table.{note}")
    try:
        with open_regular(path) as file:
            encoding = "utf-16" if file.read(2) in _UTF16 else "utf-8-sig"
            file.seek(0)
            text = io.TextIOWrapper(file, encoding, newline="")
            lines, columns, comma = _read_json(path, text) if ending == ".jsonl" else _read_cells(path, text)
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error.strerror}).") from None
    except UnicodeError:
        raise ShardError(
            f"{path}: is not written in UTF-8. Save it as UTF-8 (in Excel: 'CSV UTF-8', in pandas: "
            "encoding='utf-8')."
        ) from None
    except csv.Error as error:
        raise ShardError(f"{path}: is not a table ({error}).") from None
    for column in columns:
        _tidy(lines, column, decimal_comma=comma)
    return lines, columns


def is_index(column: str) -> bool:
    """Whether a column holds the numbers of the lines, which pandas writes unless it is told not to."""
    return re.fullmatch(r"Unnamed: \d+", column) is not None


def _read_cells(path: Path, text: TextIO) -> tuple[list[Line], list[str], bool]:
    """Lines, columns, and whether numbers may have decimal commas."""
    first = text.readline()
    if "\0" in first:
        raise UnicodeError("a zero byte, as in UTF-16 without a byte order mark")
    named = re.match(r"sep=(.)", first)
    if named:
        between = named[1]
    else:
        text.seek(0)
        usual = _BETWEEN[path.suffix.lower()]
        between = max([usual, *_OTHERS], key=lambda each: len(next(csv.reader([first], delimiter=each), ())))
    reader = csv.reader(text, delimiter=between, strict=True)
    columns = [name.strip() for name in next(reader, ())]
    repeated = sorted({name for name in columns if name and columns.count(name) > 1})
    if repeated:
        raise ShardError(f"{path}: more than one column is called {', '.join(repeated)}. Rename them.")
    lines = [
        (reader.line_num + bool(named), _named(path, reader.line_num + bool(named), row, columns))
        for row in reader
        if any(cell.strip() for cell in row)
    ]
    return lines, [name for name in columns if name], between != ","


def _named(path: Path, number: int, row: Sequence[str], columns: Sequence[str]) -> dict[str, Any]:
    """The cells of a line by column; cells behind the last column may be empty."""
    if len(row) < len(columns) or any(cell.strip() for cell in row[len(columns) :]):
        raise ShardError(f"{path}: line {number} has more or fewer cells than the first line has columns.")
    return {column: cell for column, cell in zip(columns, row, strict=False) if column}


def _read_json(path: Path, text: TextIO) -> tuple[list[Line], list[str], bool]:
    lines = [(at, _object(path, at, line)) for at, line in enumerate(text, 1) if line.strip()]
    return lines, list(dict.fromkeys(column for _, cells in lines for column in cells)), False


def _object(path: Path, number: int, text: str) -> dict[str, Any]:
    try:
        value = loads(text)
    except ValueError as error:
        raise ShardError(f"{path}: line {number} is not JSON ({error}).") from None
    if not isinstance(value, dict):
        raise ShardError(f"{path}: line {number} is not an object with columns: {text.strip()[:60]}")
    return value


def _tidy(lines: Sequence[Line], column: str, *, decimal_comma: bool) -> None:
    """Write the cells of a column as they were meant, in place.

    Whether `11.0` is a whole number depends on all cells of the column: among `11.5` it is not.
    """
    for _, cells in lines:
        if _is_nothing(cells.get(column)):
            cells[column] = None if isinstance(cells[column], float) else ""
    filled = list(_filled(lines, column))
    if decimal_comma and all(isinstance(cell, str) and _DECIMAL_COMMA.fullmatch(cell) for cell in filled):
        _replace(lines, column, lambda cell: cell.replace(",", "."))
    elif all(_is_whole(cell) for cell in filled):
        _replace(lines, column, _whole)


def _filled(lines: Sequence[Line], column: str) -> Iterator[Any]:
    """The cells of a column that hold anything, text without the spaces around it."""
    for _, cells in lines:
        cell = cells.get(column)
        cell = cell.strip() if isinstance(cell, str) else cell
        if cell is not None and cell != "":
            yield cell


def _replace(lines: Sequence[Line], column: str, change: Any) -> None:
    for _, cells in lines:
        cell = cells.get(column)
        if isinstance(cell, str) and cell.strip():
            cells[column] = change(cell.strip())
        elif isinstance(cell, float):
            cells[column] = change(cell)


def _is_nothing(cell: Any) -> bool:
    if isinstance(cell, float):
        return math.isnan(cell)
    return isinstance(cell, str) and cell.strip().lower() in _NOTHING


def _is_whole(cell: Any) -> bool:
    if isinstance(cell, str):
        return _WHOLE.fullmatch(cell) is not None
    return (isinstance(cell, float) and cell.is_integer()) or (
        isinstance(cell, int) and not isinstance(cell, bool)
    )


def _whole(cell: str | float) -> str | int:
    """`11` for `11.0`; a text without a point stays, as zeros before a number may belong to it."""
    if isinstance(cell, float):
        return int(cell)
    return str(int(cell.partition(".")[0])) if "." in cell else cell
