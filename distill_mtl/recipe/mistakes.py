"""One mistake in a recipe, and the error that reports all of them at once.

Reading, overrides, validation and the rules between sections all yield `Mistake`s; `load_recipe`
gathers them and raises what `recipe_error` returns.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from distill_mtl.errors import RecipeError
from distill_mtl.untrusted_text import visible

KeyPath = tuple[str | int, ...]
Place = int | str
"""Where a value comes from: a line of the file, or the text of a `--set`."""

LONGEST = 60


@dataclass(frozen=True)
class Mistake:
    """A mistake at one key.

    Attributes:
        path: keys and list positions from the top of the recipe to the key.
        text: what was found, what was expected and what to do; one sentence or a few.
        place: where it stands, if that cannot be told from the path.
    """

    path: KeyPath
    text: str
    place: Place | None = None


def recipe_error(file: str, mistakes: Iterable[Mistake], place_of: Callable[[KeyPath], Place]) -> RecipeError:
    """The error that carries all mistakes, in the order of the file, those of overrides last."""
    placed = {
        (mistake.place if mistake.place is not None else place_of(mistake.path), mistake.path, mistake.text)
        for mistake in mistakes
    }
    ordered = sorted(placed, key=lambda one: (isinstance(one[0], str), one[0], dotted(one[1]), one[2]))
    return RecipeError("\n\n".join(_paragraph(file, *one) for one in ordered))


def dotted(path: KeyPath) -> str:
    """`tasks.breed.hints.0.student`, the form that `--set` takes."""
    return ".".join(str(step) for step in path)


def show(value: Any) -> str:
    """A value of the recipe on one short line."""
    text = visible(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= LONGEST else text[: LONGEST - 4] + " ..."


def either(names: Sequence[str]) -> str:
    """`a, b or c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _paragraph(file: str, place: Place, path: KeyPath, text: str) -> str:
    where = place if isinstance(place, str) else f"{file}, line {place}"
    key = f", {dotted(path)}" if path else ""
    return f"Recipe error in {_one_line(where + key)}:\n  {_one_line(text)}"


def _one_line(text: str) -> str:
    """Keys, overrides and file names may hold newlines, and a paragraph is one finding."""
    return visible(text.replace("\n", "\\n"))
