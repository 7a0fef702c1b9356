"""The long form against the schema: a Recipe, or every mistake in words.

Pydantic finds what is wrong; this module says it in the user's terms. Where a value may take several
forms, pydantic complains once per form: those complaints become one mistake.
"""

import json
from typing import Any, TypeAlias

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from distill_mtl.errors import nearest
from distill_mtl.recipe.json_schema import NAME, choices, description, expected, known_keys
from distill_mtl.recipe.long_form import LongForm
from distill_mtl.recipe.mistakes import KeyPath, Mistake, dotted, show
from distill_mtl.recipe.schema import Recipe

Located: TypeAlias = tuple[KeyPath, ErrorDetails]


def validate(form: LongForm) -> tuple[Recipe | None, list[Mistake]]:
    """The recipe, or None and what is wrong with it, under the paths that the user wrote.

    Types are strict (no text for a number, no true for 1), as JSON: a list is fine for a pair.
    """
    try:
        return Recipe.model_validate_json(json.dumps(form.value), strict=True), []
    except ValidationError as invalid:
        located = [(_locate(error["loc"], form.value), error) for error in invalid.errors(include_url=False)]
        return None, _findings(located, form)


def _locate(location: tuple[str | int, ...], value: Any) -> KeyPath:
    """The path of an error in the recipe: pydantic's location without the names of a union's members."""
    path: KeyPath = ()
    for step in location:
        if isinstance(value, dict) and step in value:
            path, value = (*path, step), value[str(step)]
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            path, value = (*path, step), value[step]
    return path


def _findings(located: list[Located], form: LongForm) -> list[Mistake]:
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
        return _unknown(user)
    found = f"found {show(value)}, "
    if error["type"] == "value_error":
        return Mistake(user, found + str(error["ctx"]["error"]))
    if error["type"] == "finite_number":
        return Mistake(user, found + "expected a finite number.")
    wants = expected(user)
    mend = nearest(value, choices(user)) if isinstance(value, str) else ""
    if wants == "text" and isinstance(value, int | float):
        mend = " Put it in quotes."
    return Mistake(user, f"{found}expected {wants}.{mend}")


def _unknown(path: KeyPath) -> Mistake:
    known = known_keys(path[:-1])
    section = f"of `{dotted(path[:-1])}`" if path[1:] else "of a recipe"
    near = nearest(str(path[-1]), known)
    return Mistake(path, f"found an unknown key.{near} Keys {section}: {', '.join(known)}.")


def _value(recipe: Any, path: KeyPath) -> Any:
    for step in path:
        recipe = recipe[step]
    return recipe
