"""A table of pictures and their labels: CSV, TSV, or JSON Lines.

What the columns of a label become is the matter of its kind of task (`LabelForm.label_from_cells`).
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from distill_mtl.errors import ShardError, nearest
from distill_mtl.shards.label_kinds import FoundLabel, Label, LabelKinds
from distill_mtl.shards.listed_rows import FileRow, FileRows, named_file, unique_keys
from distill_mtl.shards.table_file import Line, is_index, read_table

_SHOWN = 10


def table_rows(
    file: str | Path,
    labels: Mapping[str, Sequence[str]],
    *,
    images: str | Path | None = None,
    image: str = "image",
    group: str | None = None,
    slices: Sequence[str] = (),
    allow_missing: bool = False,
    kinds: Sequence[str] = (),
    trust: bool = False,
    options: Mapping[str, Any] | None = None,
) -> FileRows:
    """The rows of a table, each with a picture and the labels that its columns give.

    Args:
        file: .csv, .tsv (first line: names of the columns) or .jsonl (an object in each line).
        labels: member -> its columns. `*` in a column stands for all columns that fit and have no other use.
        images: folder that paths in the table start from; default the table's own.
        image: column of the picture's path.
        group: column of what rows have in common.
        slices: columns that evaluation may slice by.
        allow_missing: leave out rows that lack a label, instead of refusing them.
        kinds: kinds of task of your own, `module:Class`, whose labels the columns may be.
        trust: let the code of these kinds run.
        options: of the labels' kinds, where their defaults do not fit the table, such as {"max_objects": 100}.

    Raises:
        ShardError: no such file or column; every row that cannot be understood, at once.
        UserError: an invalid kind or option.
    """
    path = Path(file)
    lines, columns = read_table(path)
    known = LabelKinds(kinds, trust=trust, options=options)
    refuse_wrong_columns(labels, known)
    chosen = {
        member: _choose(member, asked, columns, {image, group, *slices, *_named(labels)}, path)
        for member, asked in labels.items()
    }
    for column in (image, group):
        if column is not None and column not in columns:
            raise ShardError(
                _no_column(path, column, columns) + (" Name it with --image." * (column == image))
            )
    for column in slices:
        if column not in columns:
            raise ShardError(f"--slices {column}: {_no_column(path, column, columns)}")
    folder = Path(images) if images is not None else path.parent
    kept, numbers = _usable_rows(
        path, lines, _Columns(chosen, known, image, group, slices, folder), allow_missing
    )
    built = _build_labels(chosen, kept, known, path)
    _refuse_unreadable(path, built, kept, numbers)
    keys = unique_keys(os.path.relpath(row.picture, folder) for row in kept)
    rows = [row._replace(key=key) for row, key in zip(kept, keys, strict=True)]
    what: dict[str, object] = {"origin": "table", "labels": chosen, "image": image, "group": group}
    what |= {"slices": list(slices)} if slices else {}
    what |= {"options": dict(options)} if options else {}
    return FileRows(rows, what, built, {"rows that lack a label": len(lines) - len(kept)})


def refuse_wrong_columns(labels: Mapping[str, Sequence[str]], known: LabelKinds) -> None:
    """Refuse several columns, or none, for a label that is in one.

    Raises:
        ShardError: with the label.
    """
    for member, columns in labels.items():
        if known[member].from_table != "columns" and len(columns) != 1:
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
            free = [column for column in columns if column not in taken and not is_index(column)]
            found = [column for column in free if fnmatchcase(column, one)]
        else:
            found = []
        if not found:
            raise ShardError(f"--label {member}={one}: {_no_column(path, one, columns)}")
        chosen += [column for column in found if column not in chosen]
    return chosen


def _no_column(path: Path, column: str, columns: Sequence[str]) -> str:
    return f"{path} has no column '{column}'.{nearest(column, columns)} Columns: {', '.join(columns[:40]) or 'none'}."


class _Columns(NamedTuple):
    """What the columns of a table mean.

    Attributes:
        labels: member -> its columns.
        kinds: of the members.
        image: column of the picture's path.
        group: column of what rows have in common.
        slices: columns that evaluation may slice by.
        folder: that paths start from.
    """

    labels: Mapping[str, Sequence[str]]
    kinds: LabelKinds
    image: str
    group: str | None
    slices: Sequence[str]
    folder: Path


def _usable_rows(
    path: Path, lines: Sequence[Line], columns: _Columns, allow_missing: bool
) -> tuple[list[FileRow], list[int]]:
    """The rows that have all labels, without their keys, and the numbers of their lines."""
    kept, numbers, findings, lacking = [], list[int](), list[str](), 0
    for number, cells in lines:
        empty = [
            member for member, own in columns.labels.items() if all(_is_empty(cells.get(one)) for one in own)
        ]
        if empty and allow_missing:
            continue
        try:
            if empty:
                lacking += 1
                raise ValueError(f"no {empty[0]} ({', '.join(columns.labels[empty[0]][:3])})")
            kept.append(_row(cells, columns))
            numbers.append(number)
        except ValueError as error:
            findings.append(f"line {number}: {error}")
    remedy = " Rows without a label are left out with --allow-missing." if lacking else ""
    _refuse(path, findings, remedy)
    if not kept:
        raise ShardError(f"{path}: no rows.")
    return kept, numbers


def _row(cells: Mapping[str, Any], columns: _Columns) -> FileRow:
    """The row of one line, without its key."""
    if _is_empty(cells.get(columns.image)):
        raise ValueError(f"no picture ({columns.image})")
    texts: dict[str, bytes] = {}
    files: dict[str, str] = {}
    for member, asked in columns.labels.items():
        own = {column: cells.get(column) for column in asked}
        if columns.kinds[member].from_table == "file":
            files[member] = named_file(asked[0], own[asked[0]], columns.folder)
        else:
            texts[member] = columns.kinds[member].label_from_cells(own)
    if columns.group is not None and not _is_empty(cells.get(columns.group)):
        texts["group"] = str(cells[columns.group]).strip().encode()
    carried = {
        column: _word(cells.get(column)) for column in columns.slices if not _is_empty(cells.get(column))
    }
    if carried:
        texts["slice.json"] = json.dumps(carried, ensure_ascii=False).encode()
    return FileRow("", named_file(columns.image, cells[columns.image], columns.folder), texts, files)


def _word(cell: Any) -> Any:
    """A cell of text as the number that it is, or as it is: zeros before a number may belong to a name."""
    text = cell.strip() if isinstance(cell, str) else ""
    if re.fullmatch(r"-?(0|[1-9]\d*)", text):
        return int(text)
    return float(text) if re.fullmatch(r"-?(0|[1-9]\d*)\.\d+", text) else text or cell


def _is_empty(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())


def _build_labels(
    chosen: Mapping[str, Sequence[str]], rows: Sequence[FileRow], known: LabelKinds, path: Path
) -> list[Label]:
    found = []
    for member, columns in chosen.items():
        kind, payloads = known[member], [row.texts[member] for row in rows if member in row.texts]
        try:
            classes = kind.classes_in(payloads, columns)
        except ValueError as error:
            raise ShardError(f"{path}, column {columns[0]}: {error}") from None
        name = columns[0] if len(columns) == 1 else member.partition(".")[0]
        found.append(FoundLabel(member, name, classes, kind.options_in(payloads)))
    return known.build(found)


def _refuse_unreadable(
    path: Path, labels: Sequence[Label], rows: Sequence[FileRow], numbers: Sequence[int]
) -> None:
    """Labels that training would not read, by the number of their line."""
    findings, optional = list[str](), False
    for number, row in zip(numbers, rows, strict=True):
        for label in labels:
            if label.member not in row.texts:
                continue
            try:
                label.kind.read_label(row.texts[label.member])
            except ValueError as error:
                findings.append(f"line {number}: {label.named()}: {str(error).rstrip('.')}")
                optional = optional or bool(label.kind.label_options)
    _refuse(
        path, findings, " An option of a label's kind is set with --option NAME=VALUE." if optional else ""
    )


def _refuse(path: Path, findings: Sequence[str], remedy: str) -> None:
    if findings:
        more = f"; and {len(findings) - _SHOWN:,} more" if len(findings) > _SHOWN else ""
        listed = "; ".join(findings[:_SHOWN]) + more
        raise ShardError(f"{path}: {len(findings):,} rows cannot be used: {listed}.{remedy}")
