"""What the command line says of a recipe: `--set tasks.breed.temperature=2`, and a teacher with options of its own.

`load_recipe` applies overrides to what the file says, before short forms are expanded, so that one may
reach into a short form too (`student.args.norm_layer=...` where the file says `student: resnet18`). A key
that does not exist is reported by validation, as in the file.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from distill_mtl.errors import nearest
from distill_mtl.reading import Remedy
from distill_mtl.recipe.long_form import expand, long_form
from distill_mtl.recipe.mistakes import KeyPath, Mistake, Place, dotted, recipe_error, show
from distill_mtl.recipe.rules import network_rules
from distill_mtl.recipe.schema import NETWORK_KEYS, TeacherSection
from distill_mtl.recipe.validation import validate_teacher
from distill_mtl.recipe.yaml_reader import YamlDocument, YamlSyntaxError, parse_yaml, read_document


def apply_overrides(document: YamlDocument, overrides: Sequence[str]) -> None:
    """Set `key.path=value` for each override, in order; what is wrong joins the document's mistakes."""
    for override in overrides:
        place = f"--set {override}"
        try:
            path, value = _parse(override)
            if document.value is None:
                document.value = {}
            path = _put(document.value, _through_task(document.value, path), value)
        except _OverrideError as error:
            document.mistakes.append(Mistake(error.path, str(error), place))
            continue
        for known in [known for known in document.places if known[: len(path)] == path]:
            del document.places[known]
        document.places[path] = place


class _OverrideError(ValueError):
    def __init__(self, path: KeyPath, text: str) -> None:
        super().__init__(text)
        self.path = path


def _parse(override: str) -> tuple[KeyPath, Any]:
    key, equals, text = override.partition("=")
    path: KeyPath = tuple(key.strip().split("."))
    if not equals or not all(path):
        raise _OverrideError((), "expected key.path=value, as in --set tasks.breed.temperature=2.")
    try:
        document = read_document(text)
    except YamlSyntaxError as error:
        raise _OverrideError(path, f"the value is not valid YAML: {error}.") from error
    if document.mistakes:
        first = document.mistakes[0]
        raise _OverrideError(path + first.path, first.text)
    return path, document.value


def _through_task(recipe: Any, path: KeyPath) -> KeyPath:
    """`data.breed.weight` means the source that task `breed` brings along, where there is one."""
    if path[0] != "data" or len(path) < 2 or not isinstance(recipe, dict):
        return path
    task = _child(recipe.get("tasks"), path[1])
    if _child(task, "data") is None or _child(recipe.get("data"), path[1]) is not None:
        return path
    return ("tasks", path[1], "data", *path[2:])


def _child(value: Any, key: str | int) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _put(recipe: Any, path: KeyPath, value: Any) -> KeyPath:
    """Set the value in place and return its path, in which positions of a list are numbers.

    Sections that the file leaves out, or gives in short form, are written out on the way.
    """
    parent = recipe
    here: KeyPath = ()
    for step in path[:-1]:
        at = _key(parent, (*here, step))
        here = (*here, at)
        stands = isinstance(parent, list) or at in parent
        if not stands and here[:-1] in (("tasks",), ("data",)):
            text = f"there is no '{at}' in `{here[0]}`.{nearest(str(at), parent)} Known: {', '.join(parent)}."
            raise _OverrideError(here, text)
        child = long_form(here, parent[at]) if stands else None
        parent[at] = {} if child is None else child
        parent = parent[at]
    last = _key(parent, (*here, path[-1]))
    parent[last] = value
    return (*here, last)


def _key(parent: Any, path: KeyPath) -> Any:
    """What to index `parent` with to reach `path`: the path's last step, as a number for a list."""
    step, above = path[-1], f"`{dotted(path[:-1])}`" if path[1:] else "the file"
    if isinstance(parent, dict):
        return step
    if not isinstance(parent, list):
        raise _OverrideError(path, f"{above} is {show(parent)}, which has no keys. Set {above} itself.")
    if not str(step).isdecimal() or int(step) >= len(parent):
        text = f"{above} is a list of {len(parent)}. Name an item by its position, counted from 0."
        raise _OverrideError(path, text)
    return int(step)


_AS_YAML = Remedy("A network in several keys is written {path: net.onnx, input: {size: 64}}.")
_WHERE = "the command line"
_SAYS_NOTHING = {
    "best",
    "checkpoint",
    "export",
    "exported",
    "last",
    "model",
    "network",
    "student",
    "teacher",
    "weights",
}
"""Names of files and folders that a hundred networks have; the folder around them says more."""


def teacher_values(where: str) -> dict[str, Any]:
    """Keys of the section that a network stands for on the command line: its path, or the keys themselves as YAML,
    `{torchvision: resnet50, weights: w.pth}`.

    Raises:
        UserError: it begins as YAML and is none.
    """
    if not where.startswith("{"):
        return {"path": where}
    values: dict[str, Any] = parse_yaml(where, dict[str, Any], "network", remedy=_AS_YAML)
    return values


def network_name(values: Mapping[str, Any]) -> str:
    """What names the network in a section's keys; empty where none does."""
    named = [
        values[key] for key in (*NETWORK_KEYS, "weights") if key != "module" and values.get(key) is not None
    ]
    return str(named[0]) if named else ""


def read_teacher(values: Mapping[str, Any], overrides: Sequence[str], task: str) -> TeacherSection:
    """The section that the command line stands for; its paths are as they were typed.

    Args:
        values: keys of the section that have options of their own.
        overrides: `input.size=224`, with the section's keys.
        task: name of the task in messages.

    Raises:
        RecipeError: with every mistake.
    """
    document = YamlDocument(dict(values))
    apply_overrides(document, overrides)
    above: KeyPath = ("tasks", task, "teacher")

    def place_of(path: KeyPath) -> Place:
        inner = path[len(above) :]
        return next(
            (
                document.places[inner[:end]]
                for end in range(len(inner), 0, -1)
                if inner[:end] in document.places
            ),
            _WHERE,
        )

    section, invalid = validate_teacher(expand({"tasks": {task: {"teacher": document.value}}}), above)
    found = [Mistake((*above, *one.path), one.text, one.place) for one in document.mistakes] + invalid
    found += network_rules(above, section) if section is not None else ()
    if section is None or found:
        raise recipe_error(_WHERE, found, place_of)
    return section


def task_name(place: str, taken: Sequence[str] = ()) -> str:
    """A name for the task of a teacher, from the name of its file: `models/breed.onnx` -> `breed`.

    Args:
        place: path, `hf_hub:owner/name` or name of a network.
        taken: names that other tasks have.
    """
    path = PurePath(re.sub(r"^hf[_-]hub:", "", place).partition("@")[0])
    parts = [path.name.partition(".")[0] if path.suffix else path.name, *reversed(path.parts[:-1])]
    telling = next((part for part in parts if part.lower() not in _SAYS_NOTHING), parts[0])
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", telling).strip("-")
    name = name if re.match("[A-Za-z]", name) else f"task-{name}".rstrip("-")
    return next(
        unique
        for number in range(1, len(taken) + 2)
        if (unique := name if number == 1 else f"{name}-{number}") not in taken
    )
