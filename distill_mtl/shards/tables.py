"""A table of pictures and their labels: CSV, TSV, or JSON Lines.

The cells of a table as members of a shard: text of CSV and values of JSON alike.
"""

import csv
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from distill_mtl.errors import ShardError, nearest
from distill_mtl.shards.class_names import class_label, list_classes
from distill_mtl.shards.image_folders import DENSE
from distill_mtl.shards.listed_rows import FileRow, FileRows, Label, LabelError, unique_keys
from distill_mtl.shards.members import KINDS, check_things

_SHOWN = 10
_ONE_COLUMN = ("cls", "boxes.json", *DENSE)

Line = tuple[int, dict[str, Any]]
"""Number in the file, and column -> cell."""


def table_rows(
    file: str | Path,
    labels: Mapping[str, Sequence[str]],
    *,
    images: str | Path | None = None,
    image: str = "image",
    group: str | None = None,
    allow_missing: bool = False,
) -> FileRows:
    """The rows of a table, each with a picture and the labels that its columns give.

    Args:
        file: .csv, .tsv (first line: names of the columns) or .jsonl (an object in each line).
        labels: member -> its columns. `*` in a column stands for all columns that fit and have no other use.
        images: folder that paths in the table start from; default the table's own.
        image: column of the picture's path.
        group: column of what rows have in common.
        allow_missing: leave out rows that lack a label, instead of refusing them.

    Raises:
        ShardError: no such file or column; every row that cannot be understood, at once.
    """
    path = Path(file)
    lines, columns = _read(path)
    _refuse_unknown_members(labels)
    chosen = {
        member: _choose(member, asked, columns, {image, group, *_named(labels)}, path)
        for member, asked in labels.items()
    }
    for column in (image, group):
        if column is not None and column not in columns:
            raise ShardError(
                _no_column(path, column, columns) + (" Name it with --image." * (column == image))
            )
    folder = Path(images) if images is not None else path.parent
    kept, findings, missing, lacking = [], list[str](), 0, 0
    for number, cells in lines:
        empty = [
            member for member, own in chosen.items() if all(is_empty(cells.get(column)) for column in own)
        ]
        if empty and allow_missing:
            missing += 1
            continue
        try:
            if empty:
                lacking += 1
                raise LabelError(f"no {empty[0]} ({', '.join(chosen[empty[0]][:3])})")
            kept.append(_row(cells, chosen, image, group, folder))
        except LabelError as error:
            findings.append(f"line {number}: {error}")
    if findings:
        mend = " Rows without a label are left out with --allow-missing." if lacking else ""
        raise ShardError(f"{path}: {len(findings):,} rows cannot be used: {_listed(findings)}.{mend}")
    if not kept:
        raise ShardError(f"{path}: no rows.")
    keys = unique_keys(os.path.relpath(row.picture, folder) for row in kept)
    rows = [row._replace(key=key) for row, key in zip(kept, keys, strict=True)]
    what = {"origin": "table", "labels": chosen, "image": image, "group": group}
    return FileRows(rows, what, _labels(chosen, rows, path), {"rows that lack a label": missing})


def _read(path: Path) -> tuple[list[Line], list[str]]:
    """All lines, and the columns that occur, in the order of the file."""
    ending = path.suffix.lower()
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            if ending == ".jsonl":
                lines = [(at, _object(path, at, text)) for at, text in enumerate(file, 1) if text.strip()]
                return lines, list(dict.fromkeys(column for _, cells in lines for column in cells))
            if ending in (".csv", ".tsv"):
                reader = csv.DictReader(file, delimiter="\t" if ending == ".tsv" else ",", strict=True)
                columns = [str(column) for column in reader.fieldnames or ()]
                return [(reader.line_num, _whole(path, reader.line_num, cells)) for cells in reader], columns
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise ShardError(f"{path}: is not written in UTF-8. Save it as UTF-8.") from None
    except csv.Error as error:
        raise ShardError(f"{path}: is not a table ({error}).") from None
    raise ShardError(f"{path}: a table is a .csv, .tsv or .jsonl file.")


def _whole(path: Path, number: int, cells: dict[Any, Any]) -> dict[str, Any]:
    if None in cells or None in cells.values():  # how csv says that there are more or fewer
        raise ShardError(f"{path}: line {number} has more or fewer cells than the first line has columns.")
    return cells


def _object(path: Path, number: int, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ShardError(f"{path}: line {number} is not JSON ({error}).") from None
    if not isinstance(value, dict):
        raise ShardError(f"{path}: line {number} is not an object with columns: {text.strip()[:60]}")
    return value


def _refuse_unknown_members(labels: Mapping[str, Sequence[str]]) -> None:
    for member, columns in labels.items():
        if member not in KINDS:
            raise ShardError(
                f"--label {member}=...: there is no label of this name.{nearest(member, KINDS)} Known: "
                f"{', '.join(KINDS)}."
            )
        if member in _ONE_COLUMN and len(columns) != 1:
            raise ShardError(f"--label {member}=...: takes one column, found {', '.join(columns) or 'none'}.")


def _named(labels: Mapping[str, Sequence[str]]) -> set[str]:
    return {column for columns in labels.values() for column in columns}


def _choose(
    member: str, asked: Sequence[str], columns: Sequence[str], taken: set[str | None], path: Path
) -> list[str]:
    """The columns of a label, patterns expanded."""
    chosen: list[str] = []
    for one in asked:
        if one in columns:
            found = [one]
        elif "*" in one:
            found = [column for column in columns if fnmatchcase(column, one) and column not in taken]
        else:
            found = []
        if not found:
            raise ShardError(f"--label {member}={one}: {_no_column(path, one, columns)}")
        chosen += [column for column in found if column not in chosen]
    return chosen


def _no_column(path: Path, column: str, columns: Sequence[str]) -> str:
    return f"{path} has no column '{column}'.{nearest(column, columns)} Columns: {', '.join(columns[:40]) or 'none'}."


def _row(
    cells: Mapping[str, Any], chosen: Mapping[str, Sequence[str]], image: str, group: str | None, folder: Path
) -> FileRow:
    """The row of one line, without its key."""
    if is_empty(cells.get(image)):
        raise LabelError(f"no picture ({image})")
    texts: dict[str, bytes] = {}
    files: dict[str, str] = {}
    for member, columns in chosen.items():
        own = {column: cells.get(column) for column in columns}
        if member in DENSE:
            files[member] = str(folder / str(own[columns[0]]))
        else:
            texts[member] = CELLS[member](own)
    if group is not None and not is_empty(cells.get(group)):
        texts["group"] = str(cells[group]).strip().encode()
    return FileRow("", str(folder / str(cells[image]).strip()), texts, files)


def _labels(chosen: Mapping[str, Sequence[str]], rows: Sequence[FileRow], path: Path) -> list[Label]:
    labels = []
    for member, columns in chosen.items():
        classes: tuple[str, ...] | int | None = None
        if member in ("attributes.json", "values.json"):
            classes = tuple(columns)
        if member == "cls":
            classes = list_classes(
                (row.texts[member].decode() for row in rows), f"{path}, column {columns[0]}"
            )
        name = columns[0] if len(columns) == 1 else member.partition(".")[0]
        labels.append(Label(member, name, classes))
    return labels


def _listed(findings: Sequence[str]) -> str:
    more = f"; and {len(findings) - _SHOWN:,} more" if len(findings) > _SHOWN else ""
    return "; ".join(findings[:_SHOWN]) + more


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
