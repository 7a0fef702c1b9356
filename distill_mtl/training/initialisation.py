"""The initial weights of a recipe's student: its trained heads, and a description of all of them."""

from collections.abc import Mapping
from typing import Any

from distill_mtl.errors import StudentError, UserError
from distill_mtl.recipe import Recipe
from distill_mtl.students.initial_weights import ANEW, TEACHERS, InitialHead, InitialStudent
from distill_mtl.tasks.base import TaskKind, named_classes
from distill_mtl.teachers.card import TeacherCard
from distill_mtl.teachers.label_map import match_classes


def initial_heads(
    recipe: Recipe,
    teachers: Mapping[str, TeacherCard],
    kinds: Mapping[str, TaskKind],
    old: InitialStudent | None,
) -> dict[str, InitialHead]:
    """task -> the trained head with its initial weights; the other heads are random.

    Args:
        recipe: as loaded.
        teachers: of the tasks that have one.
        kinds: of all tasks.
        old: the student that training begins with.

    Raises:
        StudentError: the old student's head for a task is one of another kind, or for other classes.
    """
    found = {}
    for task, section in recipe.tasks.items():
        inherited = old.head_of(task, section) if old is not None else None
        of_teacher = section.head.init == "teacher" or (
            section.head.init is None and recipe.student.init == TEACHERS
        )
        if of_teacher and len(section.networks) == 1 and task in teachers:
            found[task] = InitialHead(teachers[task].place, section.networks[0].task, teachers[task].labels)
        elif old is not None and inherited is not None:
            found[task] = _inherited(task, kinds[task], old, inherited)
    return found


def _inherited(task: str, kind: TaskKind, old: InitialStudent, head: str) -> InitialHead:
    entry, what = old.tasks[head], f"the head '{head}' of {old.folder}"
    try:
        if entry["kind"] != kind.name:
            raise UserError(f"{what} is for {entry['kind']}, the task is of kind {kind.name}.")
        labels = match_classes(
            named_classes(entry["classes"]),
            len(entry["classes"]),
            kind.classes if named_classes(kind.classes) is not None else len(kind.classes),
            what,
            rest=kind.outputs - len(kind.classes),
            remedy="",
        )
    except UserError as error:
        raise StudentError(f"tasks.{task}.head: {str(error).strip()} {ANEW}") from error
    return InitialHead(old.folder, head, labels, inherited=True)


def initialisation_in_words(
    recipe: Recipe, heads: Mapping[str, InitialHead], old: InitialStudent | None
) -> str:
    """One clause on the student's initial weights: what is taken from where, and what is random."""
    if old is None:
        return f"init {recipe.student.init}"
    inherited = {task: head for task, head in heads.items() if head.inherited}
    said = [f"begins as {old.folder}: trunk"]
    if inherited:
        said.append(f"heads {', '.join(_named(task, head) for task, head in inherited.items())}")
    columns = recipe.student.columns
    if columns is not None and columns.kind == "progressive":
        said.append("these stay as they are, with a new column beside them")
    if anew := [task for task in recipe.tasks if task not in heads]:
        said.append(f"anew {', '.join(anew)}")
    taken = {head.asked for head in inherited.values()}
    if left := [head for head in old.tasks if head not in taken]:
        said.append(f"left behind {', '.join(left)}")
    return "; ".join(said)


def _named(task: str, head: InitialHead) -> str:
    notes: list[Any] = [f"was {head.asked}"] if head.asked != task else []
    if head.labels.describe:
        notes.append(head.labels.describe)
    return f"{task} ({', '.join(notes)})" if notes else task
