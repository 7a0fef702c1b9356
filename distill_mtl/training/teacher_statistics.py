"""Options of a kind of task that follow from its teacher's answers, such as mean and spread of an embedding.

They are measured once, before the student is built, on training pictures of all data sets; the resolved recipe holds
them, so that a resumed run, an evaluation and a student that begins with this one have the same.
"""

from collections.abc import Iterator, Mapping
from functools import partial

from accelerate import PartialState
from torch import Tensor

from distill_mtl.data import Sources
from distill_mtl.errors import TeacherError, UserError
from distill_mtl.recipe import Recipe
from distill_mtl.recipe.long_form import AUTO
from distill_mtl.students.initial_weights import InitialStudent
from distill_mtl.targets.facts import Teachers
from distill_mtl.tasks.base import TaskKind, build_kind
from distill_mtl.teachers.teacher import Teacher
from distill_mtl.training.choose_branches import OpenSources
from distill_mtl.training.processes import from_first_process

ROWS = 1024
"""Training pictures that a teacher is asked about."""
_AT_A_TIME = 64


def settle_from_teachers(
    recipe: Recipe,
    teachers: Teachers,
    kinds: Mapping[str, TaskKind],
    old: InitialStudent | None,
    open_sources: OpenSources,
) -> tuple[Recipe, dict[str, TaskKind]]:
    """Recipe and kinds with the options that their teachers say; all processes have the same.

    Args:
        recipe: as loaded.
        teachers: of it.
        kinds: task -> its kind.
        old: the student that training begins with, whose heads compute with its options.
        open_sources: the data sets in the size that networks want.

    Raises:
        TeacherError: a teacher's answers say nothing.
    """
    open_tasks = [task for task, kind in kinds.items() if kind.unsettled and task in teachers]
    if not open_tasks:
        return recipe, dict(kinds)
    sources = open_sources(recipe, [card.inputs for card in teachers.cards.values()])
    tasks, settled = dict(recipe.tasks), dict(kinds)
    for task in open_tasks:
        kind, section = kinds[task], recipe.tasks[task]
        head = old.head_of(task, section) if old is not None else None
        if old is not None and head is not None:
            entry = old.tasks[head]
            found = {name: entry[name] for name in kind.settled_options if name in entry}
        else:
            try:
                found = from_first_process(kind.options_from(_answers(teachers[task], sources)))
            except UserError as error:
                raise TeacherError(f"tasks.{task}.teacher: {error}") from error
        said = {key: value for key, value in section.options.items() if value != AUTO}
        options = {**found, **said}
        tasks[task] = section.model_copy(update={"options": options})
        settled[task] = build_kind(kind.name, kind.classes, kind.metric, kind.shape.given(), **options)
    return recipe.model_copy(update={"tasks": tasks}), settled


def _answers(teacher: Teacher, sources: Sources) -> Iterator[Tensor]:
    """On the host, of training pictures of every data set, the same ones in every run."""
    share = -(-ROWS // len(sources.names))
    for name in sources.names:
        for batch in sources.pictures(name, "train", _AT_A_TIME, limit=share):
            yield _logits(teacher, batch.to(PartialState().device).images)
    teacher.to("cpu")


def label_by_teachers(
    sources: Sources, teachers: Mapping[str, Teacher], kinds: Mapping[str, TaskKind]
) -> None:
    """Let teachers' answers be the labels of tasks that no data set has labels for, where the kind says so."""
    for task, kind in kinds.items():
        if kind.teacher_labels and task in teachers:
            sources.label_by(task, partial(_labels, teachers, task))


def _labels(teachers: Mapping[str, Teacher], task: str, images: Tensor) -> Tensor:
    return _logits(teachers[task], images.to(PartialState().device))


def _logits(teacher: Teacher, images: Tensor) -> Tensor:
    logits: Tensor = teacher.to(images.device)(images).logits.float().cpu()
    return logits
