"""The summary of written shards: rows, bytes, statistics of labels, and lines for a recipe."""

import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from distill_mtl.data.shard_sets import as_patterns, find_sets
from distill_mtl.recipe.command_line import task_name
from distill_mtl.recipe.yaml_writer import write_yaml
from distill_mtl.shards.label_kinds import Label
from distill_mtl.shards.shard_writer import WrittenShards
from distill_mtl.tasks.base import is_user_kind
from distill_mtl.tasks.label import LabelCounts

_LONGEST = 20  # lines of a table; of longer ones the two ends are shown
_SHOWN = 3


def show(console: Console, *written: WrittenShards) -> None:
    """Print the summary of a finished command: of each set that it wrote, and the recipe's lines for all."""
    for one in written:
        if len(written) > 1:
            console.print(f"{_set_name(one)}:", style="bold", highlight=False, markup=False)
        for line in _lines(one):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        for label in one.labels:
            _show_label(console, label, one.counts.labels[label.member])
    console.print("\nin a recipe:\n", style="bold")
    console.print(recipe_lines(*written), highlight=False, markup=False, soft_wrap=True, end="")


def recipe_lines(*written: WrittenShards) -> str:
    """YAML to paste into a recipe: tasks and their data.

    Where the shards' names say that they are a validation or test set, they stand in `split`.

    Args:
        written: one set, or several of one folder with the same labels, training first.
    """
    sets = find_sets([str(path) for one in written for path in one.shards])
    data: dict[str, Any] = {"shards": as_patterns(sets["train"])} if sets["train"] else {}
    if split := {name: as_patterns(paths) for name, paths in sets.items() if paths and name != "train"}:
        data["split"] = split
    source = _name(_folder(written[0]), ())
    labels = _by_task(written[0].labels)
    tasks = {
        name: _task(label, [one.counts.labels[label.member] for one in written])
        for name, label in labels.items()
    }
    if len(labels) == 1:
        ((name, label),) = labels.items()
        own = data if label.member == label.kind.endings()[0] else data | {"member": label.member}
        short = own["shards"] if own.keys() == {"shards"} else own
        return write_yaml({"tasks": {name: tasks[name] | {"data": short}}})
    sections: dict[str, Any] = {}
    if labels:
        sections["tasks"] = tasks
        data |= {"labels": {name: label.member for name, label in labels.items()}}
    return write_yaml(sections | {"data": {source: data}})


def _set_name(written: WrittenShards) -> str:
    """What its shards are called."""
    return os.path.basename(written.shards[0]).rpartition("-")[0]


def _folder(written: WrittenShards) -> str:
    return os.path.dirname(written.shards[0]) or "."


def _lines(written: WrittenShards) -> Iterator[str]:
    folder, count = _folder(written), len(written.shards)
    there = f"; {written.kept} of them were there" if written.kept else ""
    noun = "1 shard" if count == 1 else f"{count:,} shards"
    yield f"{folder}: {noun}, {written.counts.rows:,} rows, {written.size / 1e6:,.1f} MB{there}"
    yield f"pictures: {_sizes(written.counts.sizes)}"
    for what, number in written.left_out.items():
        yield f"left out: {number:,} {what}"
    if written.skipped:
        more = ["…"] * (len(written.skipped) > _SHOWN)
        listed = ", ".join([*written.skipped[:_SHOWN], *more])
        yield f"left out: {len(written.skipped):,} pictures that cannot be decoded ({listed})"
    yield from written.notes


def _sizes(sizes: Counter[str]) -> str:
    """The smallest, the median and the largest picture by area."""
    by_area = sorted(sizes, key=lambda size: (math.prod(map(int, size.split("x"))), size))
    if len(by_area) == 1:
        return f"all of {by_area[0]} pixels"
    up_to = accumulate(sizes[size] for size in by_area)
    median = next(size for size, rows in zip(by_area, up_to, strict=True) if 2 * rows >= sizes.total())
    return f"{by_area[0]} to {by_area[-1]} pixels (width x height), median {median}"


def _show_label(console: Console, label: Label, counts: LabelCounts) -> None:
    counted = label.kind.counts_table(counts)
    title = f"{label.named()}: {counted.title}" if counted.title else label.named()
    console.print(title, style="bold", highlight=False, markup=False, soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(counted.columns[0])
    for column in counted.columns[1:]:
        table.add_column(column, justify="right")
    for line in _ends(counted.lines):
        table.add_row(*map(Text, line))  # a class may be called [red]
    console.print(table)
    for warning in (*_warnings(label, counts), *(doubt.text for doubt in label.kind.doubts(counts))):
        console.print(warning, style="yellow", highlight=False, markup=False, soft_wrap=True)


def _warnings(label: Label, counts: LabelCounts) -> Iterator[str]:
    if silent := counts.rows - counts.labelled:
        yield f"{silent:,} of {counts.rows:,} rows have an empty {label.member}: training counts them as unlabelled."
    classes = _classes(label, counts)
    count, fewest = len(classes) if isinstance(classes, list) else classes, label.kind.fewest_classes
    if count is not None and count < fewest:
        yield (
            f"A {label.kind.name} task needs at least {fewest} classes, and these rows have {count}. Add the others to "
            "`classes`."
        )


def _ends(lines: Sequence[tuple[str, ...]]) -> Sequence[tuple[str, ...]]:
    """All lines, or the first and the last with a word about those between."""
    if len(lines) <= _LONGEST:
        return lines
    half = _LONGEST // 2
    return [*lines[:half], (f"… {len(lines) - 2 * half:,} more",), *lines[-half:]]


def _by_task(labels: Sequence[Label]) -> dict[str, Label]:
    named: dict[str, Label] = {}
    for label in labels:
        named[_name(label.task, tuple(named))] = label
    return named


def _name(place: str, taken: Sequence[str]) -> str:
    """A name that a recipe takes for a task or a source."""
    return task_name(re.sub(r"\W+", "-", os.path.basename(place)) or "data", taken)


def _task(label: Label, counts: Sequence[LabelCounts]) -> dict[str, Any]:
    kind = label.kind.name
    task: dict[str, Any] = {} if kind == "classification" else {"kind": kind}
    if is_user_kind(kind):
        task["trust"] = True
    of_all = LabelCounts()
    for one in counts:
        of_all.add(one)
    classes = _classes(label, of_all)
    if classes is not None:
        task["classes"] = classes
    options = {**label.kind.options_counted(counts[0]), **label.options}  # measured on the training set
    return task | ({"options": options} if options else {})


def _classes(label: Label, counts: LabelCounts) -> list[str] | int | None:
    if label.classes is not None:
        return label.classes if isinstance(label.classes, int) else list(label.classes)
    return label.kind.classes_counted(counts) if label.kind.open_classes else None
