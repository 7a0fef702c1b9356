"""The short forms of a recipe, and how each becomes the long form that the schema knows.

`load_recipe` expands the file with `expand` and writes out with `fill_defaults` what depends on the rest of the recipe;
`--set` walks through short forms with `long_form`, and the editors' JSON Schema admits exactly what `SHORT_FORMS`
lists. Nothing here judges values: invalid values pass through, and validation reports them under the path that
the user wrote.
"""

import copy
import re
from dataclasses import dataclass, field
from typing import Any

from distill_mtl.recipe.known_names import KnownNames
from distill_mtl.recipe.mistakes import KeyPath, Mistake
from distill_mtl.recipe.schema import SelfTeacherSection, TeacherSection, is_self_teacher

SHORT_FORMS: tuple[tuple[KeyPath, str, tuple[type, ...]], ...] = (
    (("student",), "model", (str,)),
    (("student", "columns"), "kind", (str,)),
    (("balance",), "method", (str,)),
    (("targets",), "from", (str,)),
    (("training", "stream"), "mode", (str,)),
    (("tasks", "*", "teacher"), "path", (str,)),
    (("tasks", "*", "teacher", "*"), "path", (str,)),
    (("tasks", "*", "data"), "shards", (str, list)),
    (("tasks", "*", "data", "limit"), "rows", (int,)),
    (("data", "*", "limit"), "rows", (int,)),
    (("data", "*", "labels", "*"), "member", (str,)),
    (("acceptance",), "margin", (int, float)),
    (("acceptance",), "rule", (str,)),
)
"""Sections that may be given as one value, the key that it stands for, and its types; `*` is any name."""

TEACHER: KeyPath = ("tasks", "*", "teacher")
ONE_OF_SEVERAL: KeyPath = (*TEACHER, "*")
AUTO = "auto"
SELF = "self"
"""In place of a teacher's path: the student as it was."""
SCHEDULES: dict[str, list[dict[str, Any]]] = {
    "fitnets": [
        {"until": 0.3, "weights": {"supervised": 0.0, "soft_targets": 0.0}, "train": ["guided", "adapters"]},
        {},
    ],
}
"""Schedules by name. `fitnets`: Romero et al. 2015, section 2.2."""

_LONGEST = 100
"""Letters of a name."""
MARGIN = 1.0
"""Points that a task may lose where nothing is said."""
_ACCEPTANCE = "acceptance"
_KEYS = ("margin", "rule", "gate", "slices")
_OF_LABELS = ("member", "knows")
"""Keys of a task's own data that are those of its labels."""
AUGMENT: tuple[KeyPath, ...] = (("data", "*", "augment"), ("tasks", "*", "data", "augment"))


@dataclass
class LongForm:
    """A recipe in long form, not validated yet, with the way back to what the user wrote.

    Attributes:
        value: the recipe; shares no mapping or list with the user's document.
        origins: long path to user's path, for every value that moved.
        mistakes: short forms that contradict the rest of the recipe.
    """

    value: Any
    origins: dict[KeyPath, KeyPath] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

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
    if is_teacher(path) and value == SELF:
        return {"student": "frozen"}
    if path == ("schedule",) and isinstance(value, str) and value in SCHEDULES:
        return copy.deepcopy(SCHEDULES[value])
    for pattern, key, types in SHORT_FORMS:
        if (
            matches(path, pattern)
            and type(value) in types
            and (pattern != ONE_OF_SEVERAL or is_teacher(path))
        ):
            return {key: value}
    if value is None and any(matches(path, pattern) for pattern in AUGMENT):
        return {"crop": None, "flip": False, "color": 0.0}
    return value


def fill_defaults(form: LongForm, stem: str, known: KnownNames) -> None:
    """Fill the run's name from the file's, each task's margin and weights, the options that a run settles, no hints
    from a self-teacher, and random weights of a student of the user's own code."""
    recipe = form.value
    if not isinstance(recipe, dict):
        return
    if recipe.get("name") is None:
        recipe["name"] = run_name(stem)
    student = recipe.get("student")
    if isinstance(student, dict) and student.get("module") is not None:
        student.setdefault("init", "random")
    _fill_acceptance(form, known)
    tasks = recipe.get("tasks")
    for task in tasks.values() if isinstance(tasks, dict) else ():
        if not isinstance(task, dict):
            continue
        if is_self_teacher(task.get("teacher")):
            task.setdefault("hints", [])
        settled = known.settled_options.get(str(task.get("kind")), ())
        if settled and task.get("teacher") is not None and isinstance(task.setdefault("options", {}), dict):
            task["options"] = dict.fromkeys(settled, AUTO) | task["options"]
        weights = task.get("weights", {})
        if isinstance(weights, dict):
            task["weights"] = {term: weight for term, weight in known.terms.items() if weight > 0} | weights


def run_name(stem: str) -> str:
    """A name that a run folder may have, from the name of a recipe's file without its ending."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", stem)
    return (name if re.match("[A-Za-z]", name) else f"run-{name}")[:_LONGEST]


def in_units(kind: str, metric: str | None, known: KnownNames) -> bool:
    """Whether the score of a kind of task is measured in the unit of its labels; None: its default score."""
    return metric in known.unit_metrics.get(kind, ())


def no_margin(task: str, metric: str) -> str:
    """The message for a task whose score is in the unit of its labels and has no margin."""
    return (
        f"{metric} is measured in the unit of its labels. Say how much of it may be lost: "
        f"`acceptance: {{{task}: ...}}`."
    )


def matches(path: KeyPath, pattern: KeyPath) -> bool:
    """Whether a path fits a pattern in which `*` stands for any one step."""
    return len(path) == len(pattern) and all(p in ("*", step) for step, p in zip(path, pattern, strict=True))


def is_teacher(path: KeyPath) -> bool:
    """Whether a task's teacher stands at this path, or one of its teachers."""
    return matches(path, TEACHER) or (matches(path, ONE_OF_SEVERAL) and isinstance(path[-1], int))


def _lengthen(value: Any, path: KeyPath, form: LongForm) -> Any:
    long = long_form(path, value)
    if long is not value:
        keys = range(len(long)) if isinstance(long, list) else long
        form.origins.update({(*path, key): path for key in keys})
    if is_teacher(path):
        long = _in_one_form(long)
    if isinstance(long, dict):
        return {key: _lengthen(item, (*path, key), form) for key, item in long.items()}
    if isinstance(long, list):
        return [_lengthen(item, (*path, position), form) for position, item in enumerate(long)]
    return long


def _in_one_form(teacher: Any) -> Any:
    """A teacher without keys of the other form that say nothing, which resolved recipes of earlier versions hold."""
    if not isinstance(teacher, dict):
        return teacher
    other = TeacherSection if is_self_teacher(teacher) else SelfTeacherSection
    return {
        key: value
        for key, value in teacher.items()
        if key not in other.model_fields or not _is_empty(value, other.model_fields[key].default)
    }


def _is_empty(value: Any, default: Any) -> bool:
    if isinstance(value, dict):
        return all(entry is None for entry in value.values())
    return value is None or value == default


def _move_data_of_tasks(form: LongForm) -> None:
    """A task's own `data` becomes a source of the task's name, labelled for this task only."""
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
        named = source.get("shards") if isinstance(source, dict) else None
        if isinstance(named, str) and named in sources:
            text = (
                f"'{named}' is a data set of the recipe, and shards are expected here. A data set says which tasks it "
                f"has labels of: `data: {{{named}: {{labels: {{{name}: MEMBER}}}}}}`. Say it there, and remove this "
                f"key; for a path of that name write ./{named}."
            )
            form.mistakes.append(Mistake(("tasks", name, "data"), text))
        if name in sources:
            text = f"the task has data of its own, and `data` has a source '{name}' too. Rename that source."
            form.mistakes.append(Mistake(("tasks", name, "data"), text))
        key = name if name not in sources else f"tasks.{name}.data"
        sources[key] = _label(source, name, key, form) if isinstance(source, dict) else source
        form.origins[("data", key)] = ("tasks", name, "data")


def _label(source: dict[str, Any], task: str, key: str, form: LongForm) -> dict[str, Any]:
    here: KeyPath = ("tasks", task, "data")
    if "labels" in source:
        text = "a task's own data is labelled for this task only. Use `member`, or move the source to `data`."
        form.mistakes.append(Mistake((*here, "labels"), text))
    label = {name: source[name] for name in _OF_LABELS if name in source}
    for name in _OF_LABELS:
        form.origins[("data", key, "labels", task, name)] = (*here, name)
    return {name: value for name, value in source.items() if name not in _OF_LABELS} | {
        "labels": {task: label}
    }


def _fill_acceptance(form: LongForm, known: KnownNames) -> None:
    """Bring the forms of `acceptance` to one: a margin for every task that is scored in points, the rule and the gate.

        acceptance: 2                                       # one margin for all tasks
        acceptance: {breed: 2}                              # by task
        acceptance: point                                   # the rule
        acceptance: {margin: {breed: 2}, rule: point}       # both

    A mapping with `margin`, `rule`, `gate` or `slices` is the last form, so a task of such a name has its margin under
    `margin`.
    `expand` has made a mapping of the number and of the word; what is not a mapping is left for validation to report.
    """
    recipe = form.value
    tasks = recipe.get("tasks") if isinstance(recipe.get("tasks"), dict) else {}
    said = {} if recipe.get(_ACCEPTANCE) is None else recipe[_ACCEPTANCE]
    if not isinstance(said, dict):
        return
    if any(key in said for key in _KEYS):
        _refuse_mixture(said, tasks, form)
        section = {key: said[key] for key in said if key in _KEYS}
    else:
        form.origins.update({(_ACCEPTANCE, "margin", name): (_ACCEPTANCE, name) for name in said})
        section = {"margin": said}
    section["margin"] = _by_task(section.get("margin"), tasks, form, known)
    recipe[_ACCEPTANCE] = section


def _refuse_mixture(said: dict[str, Any], tasks: dict[str, Any], form: LongForm) -> None:
    """Refuse keys of the section beside names of tasks, and a key that is both."""
    for key, value in said.items():
        if key not in _KEYS:
            text = (
                "beside `margin`, `rule`, `gate` or `slices`, margins by task stand under `margin`: "
                f"`acceptance: {{margin: {{{key}: ...}}}}`."
            )
            form.mistakes.append(Mistake((_ACCEPTANCE, key), text))
        elif key in tasks and type(value) in (int, float) and (_ACCEPTANCE, key) not in form.origins:
            text = (
                f"`{key}` is a key of `acceptance` and a task too, so {value} could belong to either. For the task: "
                f"`acceptance: {{margin: {{{key}: {value}}}}}`; for all tasks: `acceptance: {value}`."
            )
            form.mistakes.append(Mistake((_ACCEPTANCE, key), text))


def _by_task(margin: Any, tasks: dict[str, Any], form: LongForm, known: KnownNames) -> Any:
    """One number stands for all tasks."""
    if margin is None or isinstance(margin, dict):
        default = {name: MARGIN for name, task in tasks.items() if not _in_its_own_units(task, known)}
        return default | (margin or {})
    if isinstance(margin, bool) or not isinstance(margin, int | float):
        return margin
    here: KeyPath = (_ACCEPTANCE, "margin")
    form.origins.update({(*here, name): here for name in tasks})
    return dict.fromkeys(tasks, margin)


def _in_its_own_units(task: Any, known: KnownNames) -> bool:
    """Whether a point may be everything or nothing for a task in long form, which need not be valid. Of a user's own
    kind only its code knows the unit, and that has not run yet."""
    if not isinstance(task, dict) or not isinstance(task.get("metric"), str | None):
        return False
    kind = str(task.get("kind"))
    return ":" in kind or in_units(kind, task.get("metric"), known)
