"""The short forms of a recipe, and how each becomes the long form that the schema knows.

`load_recipe` expands the file with `expand`, `--set` walks through short forms with `long_form`, and the
editors' JSON Schema admits exactly what `SHORT_FORMS` lists. Nothing here judges values: what makes no
sense passes through, and validation reports it under the path that the user wrote.
"""

import copy
from dataclasses import dataclass, field
from typing import Any

from distill_mtl.recipe.findings import Finding, KeyPath

SHORT_FORMS: tuple[tuple[KeyPath, str, tuple[type, ...]], ...] = (
    (("student",), "model", (str,)),
    (("balance",), "method", (str,)),
    (("targets",), "from", (str,)),
    (("training", "stream"), "mode", (str,)),
    (("tasks", "*", "teacher"), "path", (str,)),
    (("tasks", "*", "data"), "shards", (str, list)),
    (("tasks", "*", "data", "limit"), "rows", (int,)),
    (("data", "*", "limit"), "rows", (int,)),
    (("data", "*", "labels", "*"), "member", (str,)),
    (("acceptance",), "margin", (int, float)),
    (("acceptance",), "rule", (str,)),
)
"""Sections that may be given as one value, the key that it stands for, and its types; `*` is any name."""

SELF = "self"
"""In place of a teacher's path: the student as it was."""
SCHEDULES: dict[str, list[dict[str, Any]]] = {
    "fitnets": [
        {"until": 0.3, "weights": {"supervised": 0.0, "soft_targets": 0.0}, "train": ["guided", "adapters"]},
        {},
    ],
}
"""Schedules by name. `fitnets`: Romero et al. 2015, section 2.2."""

AUGMENT: tuple[KeyPath, ...] = (("data", "*", "augment"), ("tasks", "*", "data", "augment"))


@dataclass
class LongForm:
    """A recipe in long form, not validated yet, with the way back to what the user wrote.

    Attributes:
        value: the recipe; shares no mapping or list with the user's document.
        origins: long path to user's path, for every value that moved.
        findings: short forms that contradict the rest of the recipe.
    """

    value: Any
    origins: dict[KeyPath, KeyPath] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def origin(self, path: KeyPath) -> KeyPath:
        """The user's path of a path in the long form."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origin(self.origins[path[:length]] + path[length:])
        return path


def expand(document: Any) -> LongForm:
    """The long form of what a user wrote."""
    form = LongForm(None)
    form.value = _lengthen(document, (), form)
    if isinstance(form.value, dict):
        _move_data_of_tasks(form)
    return form


def long_form(path: KeyPath, value: Any) -> Any:
    """The value in long form if a short form is allowed at this path, else the value itself."""
    if matches(path, ("tasks", "*", "teacher")) and value == SELF:
        return {"student": "frozen"}
    if path == ("schedule",) and isinstance(value, str) and value in SCHEDULES:
        return copy.deepcopy(SCHEDULES[value])
    for pattern, key, types in SHORT_FORMS:
        if matches(path, pattern) and type(value) in types:
            return {key: value}
    if value is None and any(matches(path, pattern) for pattern in AUGMENT):
        return {"crop": None, "flip": False, "color": 0.0}
    return value


def matches(path: KeyPath, pattern: KeyPath) -> bool:
    """Whether a path fits a pattern in which `*` stands for any one step."""
    return len(path) == len(pattern) and all(p in ("*", step) for step, p in zip(path, pattern, strict=True))


def _lengthen(value: Any, path: KeyPath, form: LongForm) -> Any:
    long = long_form(path, value)
    if long is not value:
        keys = range(len(long)) if isinstance(long, list) else long
        form.origins.update({(*path, key): path for key in keys})
    if isinstance(long, dict):
        return {key: _lengthen(item, (*path, key), form) for key, item in long.items()}
    if isinstance(long, list):
        return [_lengthen(item, (*path, position), form) for position, item in enumerate(long)]
    return long


def _move_data_of_tasks(form: LongForm) -> None:
    """A task's own `data` becomes a source of the task's name, labelled for this task alone."""
    tasks = form.value.get("tasks")
    for name, task in tasks.items() if isinstance(tasks, dict) else ():
        source = task.pop("data", None) if isinstance(task, dict) else None
        if source is None:
            continue
        if form.value.get("data") is None:
            form.value["data"] = {}
        sources = form.value["data"]
        if not isinstance(sources, dict):
            continue
        if name in sources:
            text = f"the task has data of its own, and `data` has a source '{name}' too. Rename that source."
            form.findings.append(Finding(("tasks", name, "data"), text))
        key = name if name not in sources else f"tasks.{name}.data"
        sources[key] = _label(source, name, key, form) if isinstance(source, dict) else source
        form.origins[("data", key)] = ("tasks", name, "data")


def _label(source: dict[str, Any], task: str, key: str, form: LongForm) -> dict[str, Any]:
    here: KeyPath = ("tasks", task, "data")
    if "labels" in source:
        text = (
            "a task's own data is labelled for this task alone. Use `member`, or move the source to `data`."
        )
        form.findings.append(Finding((*here, "labels"), text))
    label = {"member": source["member"]} if "member" in source else {}
    form.origins[("data", key, "labels", task, "member")] = (*here, "member")
    return {name: value for name, value in source.items() if name != "member"} | {"labels": {task: label}}
