"""A recipe's file to a `Recipe`: the one way in, for the command line and for library users.

Paths become absolute, from the working directory, so that a resolved recipe runs from anywhere. Nothing but the
file is looked at: teachers and shards need not exist.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from distill_mtl.errors import RecipeError
from distill_mtl.reading import Remedy, read_text
from distill_mtl.recipe.command_line import apply_overrides
from distill_mtl.recipe.known_names import KnownNames, known_names
from distill_mtl.recipe.long_form import expand, fill_defaults
from distill_mtl.recipe.mistakes import Mistake, recipe_error
from distill_mtl.recipe.rules import Judged, check_rules
from distill_mtl.recipe.schema import (
    INITS,
    Recipe,
    SourceSection,
    SplitSection,
    StudentSection,
    TaskSection,
    TeacherSection,
)
from distill_mtl.recipe.validation import validate
from distill_mtl.recipe.yaml_reader import YamlDocument, YamlSyntaxError, read_document

_LARGEST = 16 << 20  # bytes of a recipe


def load_recipe(
    path: Path | str, overrides: Sequence[str] = (), *, known: KnownNames | None = None
) -> Recipe:
    """Read a recipe, apply `--set` overrides, write out short forms and defaults, and check it all.

    Reads the one file and nothing else: teachers and shards need not exist. Paths in the result are
    absolute, from the working directory.

    Args:
        path: the YAML file.
        overrides: `key.path=value`, the value in YAML; the last one of a key wins.
        known: names that may stand in it; default: all that this program has, of kinds of task and the like.

    Raises:
        RecipeError: with every mistake of the file and the overrides, or because it cannot be read.
    """
    document = _read(Path(path))
    known = known_names() if known is None else known
    apply_overrides(document, overrides)
    form = expand(document.value)
    fill_defaults(form, Path(path).stem, known)
    recipe, invalid, unread = validate(form)
    broken = check_rules(Judged(recipe, known, unread)) if recipe is not None else []
    contradictions = [Mistake(form.origin(one.path), one.text) for one in broken]
    noted = {mistake.path for mistake in document.mistakes}
    mistakes = [one for one in (*form.mistakes, *invalid, *contradictions) if one.path not in noted]
    mistakes += document.mistakes
    if recipe is None or mistakes or unread:
        raise recipe_error(str(path), mistakes, document.place)
    return absolute_paths(recipe)


def _read(path: Path) -> YamlDocument:
    text = read_text(path, _LARGEST, remedy=Remedy("Name a YAML file in UTF-8.", RecipeError))
    try:
        return read_document(text)
    except YamlSyntaxError as error:
        problem = Mistake((), f"not valid YAML: {error}. Check indentation, colons and quotes.", error.line)
        raise recipe_error(str(path), [problem], YamlDocument().place) from error


_PREFIX = re.compile(r"[\w-]{2,}:")  # hf_hub:owner/name, scenes:depth-train, pipe:


def absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe with absolute teachers, shard patterns and `student.init`."""
    return recipe.model_copy(
        update={
            "student": _student(recipe.student),
            "tasks": {name: _task(task) for name, task in recipe.tasks.items()},
            "data": {name: _source(source) for name, source in recipe.data.items()},
        }
    )


def absolute(place: str) -> str:
    """A path or shard pattern as an absolute one, `~` expanded; what is not a local path stays as it is."""
    if "://" in place or _PREFIX.match(place):
        return place
    return os.path.abspath(os.path.expanduser(place))


def _student(student: StudentSection) -> StudentSection:
    if student.init in INITS or student.init.startswith("teacher:"):
        return student
    return student.model_copy(update={"init": absolute(student.init)})


def absolute_teacher(teacher: TeacherSection) -> TeacherSection:
    """The teacher with absolute paths; what may also be a name on the hub is a path where such a folder exists."""
    files = {key: absolute(place) for key in ("path", "weights") if (place := getattr(teacher, key))}
    for key in ("transformers", "smp"):
        place = getattr(teacher, key)
        if place is not None and os.path.isdir(folder := absolute(place)):
            files[key] = folder
    return teacher.model_copy(update=files)


def _task(task: TaskSection) -> TaskSection:
    if not task.networks:
        return task
    return task.with_networks([absolute_teacher(network) for network in task.networks])


def _source(source: SourceSection) -> SourceSection:
    split = SplitSection(validation=_patterns(source.split.validation), test=_patterns(source.split.test))
    return source.model_copy(update={"shards": _patterns(source.shards), "split": split})


def _patterns(shards: str | list[str] | None) -> str | list[str] | None:
    if shards is None or isinstance(shards, str):
        return shards and absolute(shards)
    return [absolute(pattern) for pattern in shards]
