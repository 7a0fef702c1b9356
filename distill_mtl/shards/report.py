"""What was written, for a person: how much, how large, how often each class comes, and the lines to paste."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from distill_mtl.shards.facts import Facts
from distill_mtl.shards.listed_rows import Label
from distill_mtl.shards.members import BEYOND, KINDS, LABELLED, UNKNOWN, UNLABELLED
from distill_mtl.shards.recipe_lines import USUAL_IGNORE, recipe_lines
from distill_mtl.shards.shard_writer import Written

_LONGEST = 20  # lines of a table; of longer ones the two ends are shown
_SHOWN = 3
_LAST_OF_BYTES = 255

Cells = tuple[str, ...]
Counted = dict[str, Counter[str]]


def show(console: Console, written: Written, *, ignore_index: int = USUAL_IGNORE) -> None:
    """Print the report of a finished command."""
    for line in _lines(written):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for label in written.labels:
        _show_label(console, label, written.facts)
    console.print("\nin a recipe:\n", style="bold")
    console.print(
        recipe_lines(written, ignore_index=ignore_index),
        highlight=False,
        markup=False,
        soft_wrap=True,
        end="",
    )


def _lines(written: Written) -> Iterator[str]:
    folder, count = written.shards[0].parent, len(written.shards)
    there = f"; {written.kept} of them were there" if written.kept else ""
    noun = "1 shard" if count == 1 else f"{count:,} shards"
    yield f"{folder}: {noun}, {written.facts.rows:,} rows, {written.size / 1e6:,.1f} MB{there}"
    yield f"pictures: {_sizes(written.facts.sizes)}"
    for what, number in written.left_out.items():
        yield f"left out: {number:,} {what}"
    if written.skipped:
        more = ["…"] * (len(written.skipped) > _SHOWN)
        listed = ", ".join([*written.skipped[:_SHOWN], *more])
        yield f"left out: {len(written.skipped):,} pictures that cannot be decoded ({listed})"
    yield from written.notes


def _sizes(sizes: Counter[str]) -> str:
    """The least, the median and the largest picture by area."""
    by_area = sorted(sizes, key=lambda size: (math.prod(map(int, size.split("x"))), size))
    if len(by_area) == 1:
        return f"all of {by_area[0]} pixels"
    up_to = accumulate(sizes[size] for size in by_area)
    median = next(size for size, rows in zip(by_area, up_to, strict=True) if 2 * rows >= sizes.total())
    return f"{by_area[0]} to {by_area[-1]} pixels (width x height), median {median}"


def _show_label(console: Console, label: Label, facts: Facts) -> None:
    counted = {what: values for (member, what), values in facts.counts.items() if member == label.member}
    columns, rows, note = {
        "classification": _classes,
        "multilabel": _attributes,
        "regression": _values,
        "segmentation": _pixels,
        "depth": _distances,
        "normals": _directions,
        "heatmap": _things,
    }[KINDS[label.member]](label, counted, facts)
    title = f"{label.member}{note}"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(columns[0])
    for column in columns[1:]:
        table.add_column(column, justify="right")
    for row in _ends(rows):
        table.add_row(*map(Text, row))  # a class may be called [red]
    console.print(table)
    for doubt in _doubts(label.member, counted):
        console.print(doubt, style="yellow", highlight=False, markup=False, soft_wrap=True)


def _doubts(member: str, counted: Counted) -> Iterator[str]:
    """What can be written and is seldom meant."""
    boxes = counted.get("boxes", Counter())
    if beyond := boxes[BEYOND]:
        yield (
            f"{beyond:,} of {boxes['all']:,} boxes reach beyond their picture. Are they [left, top, right, bottom]? "
            "[left, top, width, height] is expected."
        )
    if member == "seg.png" and (largest := max(map(int, counted["pixels"]))) > _LAST_OF_BYTES:
        yield (
            f"The masks hold {len(counted['pixels']):,} numbers up to {largest:,}. Are they depth maps, or ids of "
            "objects? Numbers of classes are expected; depth maps need the member depth.png."
        )


def _ends(rows: Sequence[Cells]) -> Sequence[Cells]:
    """All rows, or the first and the last with a word about those between."""
    if len(rows) <= _LONGEST:
        return rows
    half = _LONGEST // 2
    return [*rows[:half], (f"… {len(rows) - 2 * half:,} more",), *rows[-half:]]


Report = tuple[Cells, list[Cells], str]


def _classes(label: Label, counted: Counted, facts: Facts) -> Report:
    rows = counted["rows"]
    listed = label.classes if isinstance(label.classes, tuple) else None
    named = {name: _class_name(name, listed) for name in rows}
    absent = [
        name for number, name in enumerate(listed or ()) if name not in rows and str(number) not in rows
    ]
    lines: list[Cells] = [(named[name], f"{count:,}") for name, count in _by_count(rows)]
    return ("class", "rows"), [*lines, *((name, "0") for name in absent)], f": {len(rows):,} classes"


def _class_name(text: str, listed: Sequence[str] | None) -> str:
    """A class as a person knows it, where the rows hold its number."""
    by_number = listed is not None and text.isdecimal() and int(text) < len(listed)
    return listed[int(text)] if by_number and listed is not None else text


def _attributes(label: Label, counted: Counted, facts: Facts) -> Report:
    lines: list[Cells] = [
        (name, f"{values['1']:,}", f"{values['0']:,}", _share(values[UNKNOWN], values.total()))
        for name, values in counted.items()
    ]
    lines.sort(key=lambda line: -counted[line[0]]["1"])
    return ("attribute", "1", "0", "unknown"), lines, f": {len(lines):,} attributes"


def _values(label: Label, counted: Counted, facts: Facts) -> Report:
    lines: list[Cells] = []
    for name, values in counted.items():
        numbers = facts.moments.get((label.member, name))
        if numbers is None or not numbers.count:
            lines.append((name, "–", "–", "–", "–", "100 %"))
            continue
        figures = (numbers.mean, numbers.std, numbers.least, numbers.largest)
        lines.append((name, *(f"{one:,.5g}" for one in figures), _share(values[UNKNOWN], facts.rows)))
    return ("value", "mean", "std", "min", "max", "unknown"), lines, ""


def _pixels(label: Label, counted: Counted, facts: Facts) -> Report:
    pixels, rows = counted["pixels"], counted["rows"]
    lines: list[Cells] = [
        (name, _share(count, pixels.total()), f"{rows[name]:,}")
        for name, count in sorted(pixels.items(), key=lambda one: int(one[0]))
    ]
    return ("class number", "pixels", "rows with it"), lines, ""


def _distances(label: Label, counted: Counted, facts: Facts) -> Report:
    numbers, pixels = facts.moments[label.member, "depth"], counted["pixels"]
    figures = (numbers.least, numbers.mean, numbers.largest) if numbers.count else ()
    cells = (*(f"{one:,.5g}" for one in figures), *["–"] * (3 - len(figures)))
    return (
        ("", "min", "mean", "max", "pixels without"),
        [("as written", *cells, _share(pixels[UNLABELLED], pixels.total()))],
        "",
    )


def _directions(label: Label, counted: Counted, facts: Facts) -> Report:
    pixels = counted["pixels"]
    line = ("pixels", _share(pixels[LABELLED], pixels.total()), _share(pixels[UNLABELLED], pixels.total()))
    return ("", "with a normal", "without"), [line], ""


def _things(label: Label, counted: Counted, facts: Facts) -> Report:
    things, rows = counted["things"], counted["rows"]
    lines: list[Cells] = [(name, f"{count:,}") for name, count in _by_count(things)]
    return (
        ("class", "boxes and points"),
        lines,
        f": {things.total():,} in {rows['with things']:,} rows",
    )


def _by_count(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda one: (-one[1], one[0]))


def _share(part: int, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.1f} %"
