"""Validate the long form against the schema: a Recipe, or a message for every mistake.

Pydantic finds what is wrong; this module says it in the user's terms. Where a value may take several
forms, pydantic complains once per form: those complaints become one mistake.
"""

import copy
import json
from typing import Any, NamedTuple, TypeAlias

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from distill_mtl.errors import nearest
from distill_mtl.recipe.json_schema import NAME, choices, description, expected, known_keys
from distill_mtl.recipe.long_form import LongForm, is_teacher
from distill_mtl.recipe.mistakes import KeyPath, Mistake, dotted, show
from distill_mtl.recipe.schema import Recipe, SelfTeacherSection, TeacherSection, is_self_teacher

Located: TypeAlias = tuple[KeyPath, ErrorDetails]


class Validated(NamedTuple):
    """What validation makes of a long form.

    Attributes:
        recipe: without the values that are invalid; None where nothing can be read.
        mistakes: under the paths that the user wrote.
        unread: paths in the long form that the recipe lacks because they are invalid.
    """

    recipe: Recipe | None
    mistakes: list[Mistake]
    unread: frozenset[KeyPath]


def validate(form: LongForm) -> Validated:
    """The recipe, what is wrong with it, and what of it could not be read.

    Types are strict (no text for a number, no true for 1), as JSON: a list is fine for a pair.
    """
    value, mistakes, unread = form.value, list[Mistake](), set[KeyPath]()
    while True:
        try:
            recipe = Recipe.model_validate_json(json.dumps(value), strict=True)
            return Validated(recipe, mistakes, frozenset(unread))
        except ValidationError as invalid:
            errors = invalid.errors(include_url=False)
        located = [(_locate(error["loc"], value), error) for error in errors]
        mistakes = mistakes or _mistakes(located, form)
        if not isinstance(value, dict):
            return Validated(None, mistakes, frozenset())
        value = copy.deepcopy(value)
        for path, error in located:
            unread.add(_take_out(value, path, str(error["loc"][-1])))


def validate_teacher(form: LongForm, path: KeyPath) -> tuple[TeacherSection | None, list[Mistake]]:
    """The trained network at a path of a recipe's long form; other parts of the recipe may be missing."""
    try:
        text = json.dumps(_value(form.value, path))
        return TeacherSection.model_validate_json(text, strict=True), []
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False)
    return None, _mistakes([(_locate((*path, *error["loc"]), form.value), error) for error in errors], form)


_LEAST: dict[str, Any] = {"student": {}, "tasks": {"unread": {}}, "data": {"unread": {}}}
"""What stands for a section that a recipe needs and that cannot be read."""


def _take_out(recipe: dict[str, Any], path: KeyPath, key: str) -> KeyPath:
    """Remove an invalid value and return its path: of an item its whole list, so that no other one moves up.

    Args:
        recipe: is changed.
        path: of the value; where a key is missing, of the section that lacks it.
        key: the last step of the error's own path.
    """
    while path and isinstance(path[-1], int):
        path = path[:-1]
    path = path or (key,)
    section: Any = recipe
    for step in path[:-1]:
        try:
            section = section[step]
        except (KeyError, IndexError):  # taken out with what it stood in
            return path
    section.pop(path[-1], None)
    if len(path) == 1 and path[0] in _LEAST:
        recipe |= {str(path[0]): copy.deepcopy(_LEAST[str(path[0])])}
    return path


def _locate(location: tuple[str | int, ...], value: Any) -> KeyPath:
    """The path of an error in the recipe: pydantic's location without the names of a union's members."""
    path: KeyPath = ()
    for step in location:
        if isinstance(value, dict) and step in value:
            path, value = (*path, step), value[str(step)]
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            path, value = (*path, step), value[step]
    return path


def _mistakes(located: list[Located], form: LongForm) -> list[Mistake]:
    mistakes: dict[KeyPath, Mistake] = {}
    for path, error in located:
        if error["type"] == "missing" and isinstance(_value(form.value, path), dict):
            key = (*path, str(error["loc"][-1]))
            mistakes[key] = _missing(form.origin(key))
        elif error["loc"][-1:] == ("[key]",):
            if form.origin(path) == path:
                mistakes[path] = Mistake(path, f"found the name {show(path[-1])}, expected {NAME}.")
        elif not any(len(other) > len(path) and other[: len(path)] == path for other, _ in located):
            mistakes.setdefault(path, _wrong(path, error, form))
    return list(mistakes.values())


def _missing(path: KeyPath) -> Mistake:
    about = description(path)
    text = f"the key is missing, expected {expected(path)}. Add `{path[-1]}`{': ' + about if about else '.'}"
    return Mistake(path, text)


def _wrong(path: KeyPath, error: ErrorDetails, form: LongForm) -> Mistake:
    user, value = form.origin(path), _value(form.value, path)
    if error["type"] == "extra_forbidden":
        return _of_the_other_form(path, form) or _unknown(user)
    if not path and value is None:
        return Mistake(user, "the recipe is empty. `distill-mtl init` drafts one.")
    found = f"found {show(value)}, "
    if error["type"] == "value_error":
        return Mistake(user, found + str(error["ctx"]["error"]))
    if error["type"] == "finite_number":
        return Mistake(user, found + "expected a finite number.")
    wants = expected(user)
    remedy = nearest(value, choices(user)) if isinstance(value, str) else ""
    if wants == "text" and isinstance(value, int | float):
        remedy = " Put it in quotes."
    return Mistake(user, f"{found}expected {wants}.{remedy}")


def _of_the_other_form(path: KeyPath, form: LongForm) -> Mistake | None:
    """A key of a network beside those of a self-teacher, or the other way round."""
    key, teacher = str(path[-1]), _value(form.value, path[:-1])
    if not is_teacher(path[:-1]):
        return None
    if is_self_teacher(teacher) and key in TeacherSection.model_fields:
        text = f"`{key}` belongs to a trained network, and `student` makes the student its own teacher. Remove one."
    elif not is_self_teacher(teacher) and key in SelfTeacherSection.model_fields:
        text = f"`{key}` belongs to a self-teacher. Remove it, or write `student: frozen` or `student: ema`."
    else:
        return None
    return Mistake(form.origin(path), text)


def _unknown(path: KeyPath) -> Mistake:
    known = known_keys(path[:-1])
    section = f"of `{dotted(path[:-1])}`" if path[1:] else "of a recipe"
    near = nearest(str(path[-1]), known)
    return Mistake(path, f"found an unknown key.{near} Keys {section}: {', '.join(known)}.")


def _value(recipe: Any, path: KeyPath) -> Any:
    for step in path:
        recipe = recipe[step]
    return recipe
