"""Which classes the labels of a data set tell of (`knows`), and the weights of several teachers (`combine`)."""

from collections.abc import Mapping

import torch
from accelerate import PartialState

from distill_mtl.data import Sources
from distill_mtl.errors import RecipeError, nearest
from distill_mtl.recipe import Recipe
from distill_mtl.recipe.schema import task_of
from distill_mtl.splits import Split
from distill_mtl.targets.facts import Teachers
from distill_mtl.targets.live import LiveTeachers
from distill_mtl.tasks.base import TaskKind
from distill_mtl.tasks.class_view import class_view
from distill_mtl.teachers.card import TeacherCard
from distill_mtl.teachers.teacher import Teacher
from distill_mtl.training.processes import from_first_process

ROWS = 512
"""Labelled rows that a teacher's weight is measured on."""
_AT_A_TIME = 64
_LEAST = 0.01
"""Of a weight, where the best teacher's is 1."""


def known_classes_of_sources(recipe: Recipe, task: str, kind: TaskKind) -> dict[str, tuple[int, ...]]:
    """Data set -> positions of the classes that its labels of a task tell of, of those that do not tell of all.

    Labels that tell of some classes know a background too, where the kind has one: it means none of those.

    Raises:
        RecipeError: labels of this kind tell of everything; a class is not one of the task's; one class of a mirrored
            pair is known and the other is not.
    """
    known: dict[str, tuple[int, ...]] = {}
    for name, source in recipe.data.items():
        label = source.labels.get(task)
        if label is None or label.knows is None:
            continue
        place = f"data.{name}.labels.{task}.knows"
        if not kind.by_class:
            raise RecipeError(
                f"{place}: labels of kind {kind.name} are not told class by class. Remove `knows`."
            )
        for one in label.knows:
            if one not in kind.classes:
                classes = ", ".join(kind.classes[:8]) + (", …" if len(kind.classes) > 8 else "")
                raise RecipeError(
                    f"{place}: there is no class '{one}'.{nearest(one, kind.classes)} Classes of {task}: {classes}."
                )
        told = {*label.knows}
        for pair in getattr(kind, "mirrored", ()):
            if len(told & set(pair)) == 1:
                raise RecipeError(
                    f"{place}: {' and '.join(pair)} change places in a mirrored picture, and one of them is not known. "
                    "List both or neither."
                )
        ground: int | None = getattr(kind, "background", None)
        found = tuple(n for n, one in enumerate(kind.classes) if one in told or n == ground)
        if len(found) < len(kind.classes):
            known[name] = found
    return known


def refuse_combinations(
    recipe: Recipe, kinds: Mapping[str, TaskKind], cards: Mapping[str, TeacherCard]
) -> None:
    """Refuse what several teachers cannot be: labels themselves; the surest of answers that do not say how sure they
    are, or of teachers of which no two know the same classes."""
    for task, section in recipe.tasks.items():
        if len(section.networks) > 1 and kinds[task].teacher_labels:
            raise RecipeError(
                f"tasks.{task}.teacher: labels of kind {kinds[task].name} are its teacher's answers. Give "
                "each teacher a task of its own."
            )
        if section.combine != "surest":
            continue
        if type(kinds[task]).sureness is TaskKind.sureness:
            raise RecipeError(
                f"tasks.{task}.combine: answers of kind {kinds[task].name} do not say how sure they are. Use `mean` or "
                "`weighted`."
            )
        known = [card.known for name, card in cards.items() if task_of(name) == task]
        if len(set(known)) == len(known):
            raise RecipeError(
                f"tasks.{task}.combine: no two teachers know the same classes, so none is the surest of several. "
                "Remove it."
            )


def weigh_ensembles(
    recipe: Recipe, teachers: Teachers, kinds: Mapping[str, TaskKind], sources: Sources
) -> tuple[Recipe, list[str]]:
    """The recipe with the weights of `combine: weighted`, and a sentence for each task that has some.

    A teacher's weight is the inverse of what its score lacks to a perfect one, the best teacher's 1. Every process gets
    the first one's weights.

    Args:
        recipe: as loaded.
        teachers: of the recipe; opened only where their cached answers do not say what they scored.
        kinds: task -> its kind.
        sources: of the recipe.
    """
    tasks, said = dict(recipe.tasks), list[str]()
    for task, section in recipe.tasks.items():
        if section.combine != "weighted":
            continue
        scores = {}
        for name in teachers.of(task):
            score = teachers.measured(name, "score")
            if score is None:
                score = from_first_process(_score(task, kinds[task], teachers[name], sources))
                teachers.note(name, "score", score)
            scores[name] = score
        lacks = {name: abs(kinds[task].perfect - score) for name, score in scores.items()}
        floor = max(max(lacks.values()) * _LEAST, 1e-9)
        best = min(max(lack, floor) for lack in lacks.values())
        weights = [max(_LEAST, round(best / max(lack, floor), 2)) for lack in lacks.values()]
        tasks[task] = section.model_copy(update={"combine": weights})
        each = ", ".join(
            f"{name} {weight:g} ({scores[name]:.2f} {kinds[task].metric})"
            for name, weight in zip(scores, weights, strict=True)
        )
        said.append(f"combine of {task}: {each} (weighted)")
    return recipe.model_copy(update={"tasks": tasks}), said


def _score(task: str, kind: TaskKind, teacher: Teacher, sources: Sources) -> float:
    """A teacher's score on labelled rows that tell of its classes."""
    device, view = PartialState().device, class_view(kind, teacher.known)
    alone = LiveTeachers({task: teacher.alone()}, "all").to(device)
    telling = sources.telling(task, teacher.known)
    split: Split = "validation" if sources.count(task, "validation", telling) else "test"
    found = []
    for batch in sources.labelled(task, split, _AT_A_TIME, limit=ROWS, sources=telling):
        seen = batch.to(device)
        labels, said = view.labels(seen.labels[task])
        if bool(said.any()):
            logits = alone.everything(seen.images, [task])[task].logits
            found.append(view.kind.statistics(logits[said], labels[said]))
    alone.to("cpu")  # training with a cache does not need it there
    if not found:
        raise RecipeError(
            f"tasks.{task}.combine: no labelled {split} row tells of the classes of {teacher.card.name}, so its weight "
            "cannot be measured. Give the weights: `combine: [1, 1]`."
        )
    return float(view.kind.score(torch.cat(found)))
