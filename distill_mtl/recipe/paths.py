"""Paths of a recipe, made absolute from the working directory, so that a resolved recipe runs from anywhere.

Only text is changed: nothing here looks at the disk.
"""

import os
import re

from distill_mtl.recipe.schema import (
    Recipe,
    SourceSection,
    SplitSection,
    StudentSection,
    TaskSection,
    TeacherSection,
)

INITS = ("pretrained", "random")

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
    """A path or shard pattern as an absolute one, `~` expanded; what is no local path stays as it is."""
    if "://" in place or _PREFIX.match(place):
        return place
    return os.path.abspath(os.path.expanduser(place))


def _student(student: StudentSection) -> StudentSection:
    if student.init in INITS or student.init.startswith("teacher:"):
        return student
    return student.model_copy(update={"init": absolute(student.init)})


def absolute_teacher(teacher: TeacherSection) -> TeacherSection:
    """The teacher with absolute paths."""
    files = {key: absolute(place) for key in ("path", "weights") if (place := getattr(teacher, key))}
    return teacher.model_copy(update=files)


def _task(task: TaskSection) -> TaskSection:
    if task.teacher is None:
        return task
    return task.model_copy(update={"teacher": absolute_teacher(task.teacher)})


def _source(source: SourceSection) -> SourceSection:
    split = SplitSection(validation=_patterns(source.split.validation), test=_patterns(source.split.test))
    return source.model_copy(update={"shards": _patterns(source.shards), "split": split})


def _patterns(shards: str | list[str] | None) -> str | list[str] | None:
    if shards is None or isinstance(shards, str):
        return shards and absolute(shards)
    return [absolute(pattern) for pattern in shards]
