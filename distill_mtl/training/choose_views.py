"""Which views of its pictures a run sees, where its recipe leaves that to `auto`: crop and flip of each data set."""

import re
from collections.abc import Iterator, Mapping

import torch
from accelerate import PartialState
from torch import Tensor

from distill_mtl.data import Sources
from distill_mtl.data.augmentation import crop_for
from distill_mtl.geometry.views import Size, View
from distill_mtl.recipe import Recipe
from distill_mtl.recipe.schema import SourceSection, task_of
from distill_mtl.splits import Split
from distill_mtl.targets.facts import Teachers
from distill_mtl.targets.live import LiveTeachers
from distill_mtl.tasks.base import TaskKind, named_classes
from distill_mtl.tasks.class_view import class_view
from distill_mtl.teachers.teacher import Teacher
from distill_mtl.training.processes import from_first_process
from distill_mtl.training.target_providers import weights_by_source

ROWS = 128
"""On which a teacher is asked about mirrored pictures."""
LOST = 0.1
"""Share of its score that a teacher may lose on them."""
_AT_A_TIME = 64
_GLYPH = re.compile(r"\W*([0-9]|[A-Za-z])(\W.*)?")
_SIDE = re.compile(r"(^|[\W_])(left|right)([\W_]|$)", re.IGNORECASE)


def choose_views(
    recipe: Recipe, kinds: Mapping[str, TaskKind], teachers: Teachers, sources: Sources
) -> tuple[Recipe, list[str]]:
    """The recipe with the crop and the flip of every data set decided, and a sentence on each flip that is not made.

    A data set is mirrored if every task that is learned from its pictures takes a mirrored picture for what it was:
    a task with a teacher, if the teacher scores on mirrored pictures nearly as on others; another, as the names of its
    classes say.

    Args:
        recipe: with its teachers' weights decided.
        kinds: task -> its kind, with its classes.
        teachers: of the recipe; opened only where something is to be decided that their cached answers do not say.
        sources: of the recipe, which see these views from now on.
    """
    open_flips = {name: source for name, source in recipe.data.items() if source.augment.flip == "auto"}
    learned = {
        name: list(_learned_from(name, source, recipe, teachers)) for name, source in open_flips.items()
    }
    asked = [task for task in recipe.tasks if any(task in of_source for of_source in learned.values())]
    why = {task: _against_mirroring(task, kinds[task], teachers, sources) for task in asked}
    data = dict(recipe.data)
    for name, source in recipe.data.items():
        update: dict[str, object] = {}
        if source.augment.crop == "auto":
            update["crop"] = crop_for(source.augment, sources.size)
        if name in learned:
            update["flip"] = not any(why[task] for task in learned[name])
        if update:
            augment = source.augment.model_copy(update=update)
            data[name] = source.model_copy(update={"augment": augment})
    sources.augment_as(data)
    said = [
        f"flip: pictures that {task} learns from are not mirrored (auto: {reason})"
        for task, reason in why.items()
        if reason
    ]
    return recipe.model_copy(update={"data": data}), said


def _learned_from(name: str, source: SourceSection, recipe: Recipe, teachers: Teachers) -> Iterator[str]:
    """The tasks with a label in a data set, and those whose teachers are asked about it."""
    for task, section in recipe.tasks.items():
        weights = weights_by_source(section)
        heard = any(of_one.get(name, 1.0) > 0 for of_one in weights)
        asked = bool(teachers.of(task)) and recipe.training.teachers_on != "none" and heard
        if task in source.labels or asked:
            yield task


def _against_mirroring(task: str, kind: TaskKind, teachers: Teachers, sources: Sources) -> str:
    """Why mirrored pictures would teach a task something wrong; empty where nothing is known against them.

    A teacher is asked even where the student learns from labels only: what its pictures mean does not change.
    """
    if not teachers.of(task) or kind.dense:
        return "its classes are digits, letters or sides" if means_a_side(kind) else ""
    for name in teachers.of(task):
        found = teachers.measured(name, "mirrored")
        if found is None:
            found = from_first_process(_scores(name, kind, teachers[name], sources))
            teachers.note(name, "mirrored", found)
        plain, mirrored = found
        if mirrored < (1 - LOST) * plain if kind.higher_is_better else mirrored > (1 + LOST) * plain:
            who = "its teacher" if name == task else f"its teacher {name}"
            return f"{who} scores {mirrored:.1f} on mirrored pictures, {plain:.1f} on others"
    return ""


def _scores(name: str, kind: TaskKind, teacher: Teacher, sources: Sources) -> tuple[float, float]:
    """A teacher's scores on labelled rows, and on the same rows mirrored; one of several on those of its classes."""
    device, task, view, telling = PartialState().device, task_of(name), class_view(kind, None), None
    if name != task:
        view, telling = class_view(kind, teacher.known), sources.telling(task, teacher.known)
        teacher = teacher.alone()
    live = LiveTeachers({task: teacher}, "all").to(device)
    split: Split = "validation" if sources.count(task, "validation", telling) else "test"
    statistics: tuple[list[Tensor], list[Tensor]] = ([], [])
    for batch in sources.labelled(task, split, _AT_A_TIME, limit=ROWS, sources=telling):
        seen, size = batch.to(device), sources.size
        labels = torch.stack([_mirrored(kind, label, size) for label in batch.labels[task]]).to(device)
        for kept, images, truth in (
            (statistics[0], seen.images, seen.labels[task]),
            (statistics[1], seen.images.flip(3), labels),
        ):
            logits = live.everything(images, [task])[task].logits
            truth, said = view.labels(truth)
            kept.append(view.kind.statistics(logits[said], truth[said]))
    live.to("cpu")  # training with a cache does not need it there
    plain, mirrored = (float(view.kind.score(torch.cat(kept))) for kept in statistics)
    return plain, mirrored


def _mirrored(kind: TaskKind, label: Tensor, size: Size) -> Tensor:
    """A label as it is where the picture is mirrored, for kinds whose answer is no map."""
    return kind.transform_label(label.clone(), View(0, 0, *size, flip=True), size, size)


def means_a_side(kind: TaskKind) -> bool:
    """Whether a mirrored picture would be of another class, or of none, as the names of the classes say: digits and
    letters, or left and right, if no option says which classes change places."""
    if getattr(kind, "mirrored", ()) or kind.fixed_classes is not None:
        return False
    names = named_classes(kind.classes) or ()
    glyphs = len(names) > 1 and all(_GLYPH.fullmatch(name) for name in names)
    return glyphs or any(_SIDE.search(name) for name in names)
