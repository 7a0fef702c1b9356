"""A teacher named on the command line, as the section of a recipe that says the same."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from distill_mtl.recipe.findings import Finding, KeyPath, Place, report
from distill_mtl.recipe.known import NOTHING
from distill_mtl.recipe.lines import Document
from distill_mtl.recipe.overrides import apply_overrides
from distill_mtl.recipe.rules import check_rules
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.recipe.shorthand import expand
from distill_mtl.recipe.validation import validate

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


def read_teacher(values: Mapping[str, Any], overrides: Sequence[str], task: str) -> TeacherSection:
    """The section that the command line stands for; its paths are as they were typed.

    Args:
        values: keys of the section that have options of their own.
        overrides: `input.size=224`, with the section's keys.
        task: name of the task in messages.

    Raises:
        RecipeError: with every mistake.
    """
    document = Document(dict(values))
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

    # Around it the least that a recipe needs, so that the section is judged as in one.
    form = expand(
        {
            "student": "none",
            "tasks": {task: {"teacher": document.value}},
            "data": {"rows": {"shards": "none"}},
            "acceptance": {},
        }
    )
    recipe, invalid = validate(form)
    found = [Finding((*above, *one.path), one.text, one.place) for one in document.findings]
    found += invalid + check_rules(form.value, NOTHING)
    section = recipe.tasks[task].teacher if recipe is not None else None
    if section is None or found:
        raise report(_WHERE, found, place_of)
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
