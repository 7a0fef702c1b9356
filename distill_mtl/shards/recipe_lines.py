"""The lines of a recipe that name the shards just written."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill_mtl.data.shard_sets import as_patterns, find_sets
from distill_mtl.recipe.command_line import task_name
from distill_mtl.recipe.yaml_writer import write_yaml
from distill_mtl.shards.facts import Facts
from distill_mtl.shards.listed_rows import Label
from distill_mtl.shards.members import KINDS
from distill_mtl.shards.shard_writer import Written

USUAL_IGNORE = 255
_USUAL = {kind: member for member, kind in reversed(KINDS.items())}
_DIGITS = 6  # of offset and scale


def recipe_lines(written: Written, *, ignore_index: int = USUAL_IGNORE) -> str:
    """YAML to paste into a recipe: tasks and their data.

    Where the shards' names say that they are a validation or test set, they stand in `split`.

    Args:
        written: the shards.
        ignore_index: pixels of a mask that have no class.
    """
    paths = [str(path) for path in written.shards]
    split = next(split for split, found in find_sets([paths[0]]).items() if found)
    shards = as_patterns(paths)
    data: dict[str, Any] = {"shards": shards} if split == "train" else {"split": {split: shards}}
    source = _name(written.shards[0].parent, ())
    labels = _named(written.labels)
    if len(labels) == 1:
        (name, label), *_ = labels.items()
        own = data if label.member == _USUAL[KINDS[label.member]] else data | {"member": label.member}
        short = own["shards"] if own.keys() == {"shards"} else own
        return write_yaml({"tasks": {name: _task(label, written.facts, ignore_index) | {"data": short}}})
    sections: dict[str, Any] = {}
    if labels:
        sections["tasks"] = {
            name: _task(label, written.facts, ignore_index) for name, label in labels.items()
        }
        data |= {"labels": {name: label.member for name, label in labels.items()}}
    return write_yaml(sections | {"data": {source: data}})


def _named(labels: Sequence[Label]) -> dict[str, Label]:
    named: dict[str, Label] = {}
    for label in labels:
        named[_name(Path(label.task), tuple(named))] = label
    return named


def _name(place: Path, taken: Sequence[str]) -> str:
    """A name that a recipe takes for a task or a source."""
    return task_name(re.sub(r"\W+", "-", place.name) or "data", taken)


def _task(label: Label, facts: Facts, ignore_index: int) -> dict[str, Any]:
    kind = KINDS[label.member]
    task: dict[str, Any] = {} if kind == "classification" else {"kind": kind}
    classes = _classes(label, facts, ignore_index)
    if classes is not None:
        task["classes"] = classes
    if kind == "regression":
        task["options"] = _standardised(label, facts)
    if kind == "segmentation" and ignore_index != USUAL_IGNORE:
        task["options"] = {"ignore_index": ignore_index}
    return task


def _classes(label: Label, facts: Facts, ignore_index: int) -> list[str] | int | None:
    if label.classes is not None:
        return label.classes if isinstance(label.classes, int) else list(label.classes)
    if label.member == "seg.png":
        ids = [int(one) for one in facts.counts[label.member, "pixels"]]
        return 1 + max((one for one in ids if one != ignore_index), default=0)
    if label.member == "cls":
        return 1 + max(map(int, facts.counts[label.member, "rows"]))
    if label.member == "boxes.json":
        names = sorted(facts.counts[label.member, "things"])
        return 1 + max(map(int, names)) if names and all(map(str.isdecimal, names)) else names
    if label.member in ("attributes.json", "values.json"):
        return len([member for member, _ in facts.counts if member == label.member])
    return None


def _standardised(label: Label, facts: Facts) -> dict[str, Any]:
    """What brings the values to mean 0 and standard deviation 1."""
    moments = [numbers for (member, _), numbers in facts.moments.items() if member == label.member]
    offset = [_short(numbers.mean) for numbers in moments]
    scale = [_short(numbers.std) or 1.0 for numbers in moments]
    return (
        {"offset": offset, "scale": scale} if len(moments) > 1 else {"offset": offset[0], "scale": scale[0]}
    )


def _short(number: float) -> float:
    return float(f"{number:.{_DIGITS}g}")
