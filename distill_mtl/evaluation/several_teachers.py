"""A task with several teachers as several tasks, in each of which the student has one teacher.

`by_teacher` turns a comparison into one that everything else of this folder knows: under the name of each teacher the
student is compared with it on its classes and rows; under the task's own name with the ensemble of all of them, if they
know the same classes, else it is scored on all classes; and under TASK/all with the ensemble on the classes that all of
them know, where these are some of the classes.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from distill_mtl.data.batch import Batch, ProcessShare
from distill_mtl.data.source import RowMembers
from distill_mtl.errors import a_few
from distill_mtl.evaluation.class_rows import ClassRows
from distill_mtl.evaluation.evaluation_set import Comparison, LabelledRows, Student, Teacher
from distill_mtl.evaluation.row_statistics import logits_in
from distill_mtl.recipe.schema import task_of
from distill_mtl.splits import Split
from distill_mtl.targets.ensembles import Ensemble
from distill_mtl.tasks.base import TaskKind
from distill_mtl.tasks.class_view import ClassView, class_view
from distill_mtl.teachers.teacher import Teacher as Network
from distill_mtl.teachers.teacher import TeacherOutput


@dataclass(frozen=True)
class _Part:
    """What stands under one name.

    Attributes:
        rows: of the smaller task.
        teacher: that answers it; None: there is none.
        said: who that is, in words; empty where the task has one teacher.
    """

    rows: ClassRows
    teacher: Teacher | None
    said: str


def by_teacher(comparison: Comparison) -> Comparison:
    """The comparison with each teacher of a task with several; the same object if no task has several."""
    several: dict[str, dict[str, Network]] = {}
    for name, teacher in comparison.teachers.items():
        if task_of(name) != name and isinstance(teacher, Network):
            several.setdefault(task_of(name), {})[name] = teacher
    if not several:
        return comparison
    sources = comparison.rows.sources
    parts: dict[str, _Part] = {}
    known_by: dict[str, list[tuple[str, ...]]] = {}
    for task, kind in comparison.kinds.items():
        if task in several:
            parts |= _parts(task, kind, several[task], sources, comparison.ensembles.get(task, ()))
            known_by[task] = [
                tuple(
                    name
                    for name, teacher in several[task].items()
                    if teacher.known is None or place in teacher.known
                )
                for place in range(len(kind.classes))
            ]
        else:
            rows = ClassRows(task, class_view(kind, None), ())
            parts[task] = _Part(rows, comparison.teachers.get(task), "")
    return Comparison(
        _StudentByTeacher(comparison.student, {name: part.rows for name, part in parts.items()}),
        {name: part.teacher for name, part in parts.items()},
        {name: part.rows.view.kind for name, part in parts.items()},
        replace(
            comparison.rows,
            sources=_RowsByTeacher(sources, {name: part.rows for name, part in parts.items()}),
        ),
        against={name: part.said for name, part in parts.items() if part.said},
        known_by=known_by,
    )


def _parts(
    task: str,
    kind: TaskKind,
    teachers: Mapping[str, Network],
    sources: LabelledRows,
    ensembles: Sequence[Ensemble],
) -> dict[str, _Part]:
    everything = tuple(range(len(kind.classes)))
    common = reduce(_both, [teacher.known or everything for teacher in teachers.values()])
    alike = len({teacher.known for teacher in teachers.values()}) == 1
    least = 2 if kind.exclusive else 1
    shared = len(common) >= least and bool(set(common) - {getattr(kind, "background", None)})

    def rows(known: tuple[int, ...] | None) -> ClassRows:
        return ClassRows(task, class_view(kind, known), sources.telling(task, known))

    whole, names = ClassRows(task, class_view(kind, None), ()), words(list(teachers))
    together = (
        Together(list(teachers.values()), _weights(teachers, ensembles), common, kind) if shared else None
    )
    parts = {
        task: _Part(whole, together, f"{names} together") if alike else _Part(whole, None, "all classes")
    }
    for name, teacher in teachers.items():
        classes = "" if teacher.known is None else f", for {a_few(teacher.card.alone_classes)}"
        parts[name] = _Part(rows(teacher.known), teacher.alone(), f"{teacher.card.name}{classes}")
    if shared and not alike:
        what = a_few([kind.classes[place] for place in common])
        parts[f"{task}/all"] = _Part(rows(common), together, f"{names} together, for {what}")
    return parts


def words(names: Sequence[str]) -> str:
    """`breed/1, breed/2 and breed/3`."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _weights(teachers: Mapping[str, Network], ensembles: Sequence[Ensemble]) -> tuple[list[float], bool]:
    """Of each teacher, and whether the surest counts alone."""
    given = {name: weight for one in ensembles for name, weight in zip(one.names, one.weights, strict=True)}
    return [given.get(name, 1.0) for name in teachers], any(one.surest for one in ensembles)


def _both(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(place for place in one if place in other)


class Together(nn.Module):
    """Teachers as an ensemble on the classes that all of them know.

    Args:
        teachers: on one device.
        combine: weight of each, and whether the surest counts alone.
        known: positions of the classes in the task, ascending.
        kind: of the task.
    """

    known = None

    def __init__(
        self,
        teachers: Sequence[Network],
        combine: tuple[Sequence[float], bool],
        known: tuple[int, ...],
        kind: TaskKind,
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(teachers)
        weights, surest = combine
        names = tuple(str(number) for number in range(len(weights)))
        self._view: ClassView = class_view(kind, None if len(known) == len(kind.classes) else known)
        self._ensemble = Ensemble(self._view.kind, names, None, tuple(weights), surest)

    @torch.no_grad()
    def forward(self, images: Tensor) -> TeacherOutput:
        answers = [self._view.of_student(member(images).logits) for member in self.members]
        loudness = self._ensemble.loudness[:, None].expand(-1, len(images))
        return TeacherOutput(self._ensemble.average(answers, loudness, 1.0), {})


class _StudentByTeacher(nn.Module):
    """A student's answers under the names of all teachers.

    Args:
        student: module or function.
        parts: name -> its smaller task.
    """

    def __init__(self, student: Student, parts: Mapping[str, ClassRows]) -> None:
        super().__init__()
        # A module is registered, so that it is put into evaluation mode with this one.
        self.student: Callable[[Tensor], Mapping[str, Any]] = student
        self._parts = dict(parts)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        answers = self.student(images)
        return {
            name: part.view.of_student(logits_in(answers[part.task]))
            for name, part in self._parts.items()
            if part.task in answers
        }


class _RowsByTeacher:
    """The rows of each smaller task.

    Args:
        sources: of the whole tasks.
        parts: name -> its smaller task.
    """

    def __init__(self, sources: LabelledRows, parts: Mapping[str, ClassRows]) -> None:
        self._sources, self._parts = sources, dict(parts)

    def labelled(
        self,
        task: str,
        split: Split | None,
        batch_size: int,
        *,
        share: ProcessShare,
        limit: int | None,
        only: Collection[str] | None = None,
        sources: Collection[str] | None = None,
    ) -> Iterable[Batch]:
        part = self._parts[task]
        batches = self._sources.labelled(
            part.task, split, batch_size, share=share, limit=limit, only=only, sources=part.sources or None
        )
        return part.of(batches, task)

    def count(self, task: str, split: Split | None, sources: Collection[str] | None = None) -> int:
        part = self._parts[task]
        return self._sources.count(part.task, split, part.sources or None)

    @property
    def endings(self) -> Collection[str]:
        return self._sources.endings

    def members(
        self, task: str, split: Split | None, members: Collection[str], sources: Collection[str] | None = None
    ) -> Iterable[RowMembers]:
        part = self._parts[task]
        return self._sources.members(part.task, split, members, part.sources or None)

    def unlabelled(self, task: str) -> Sequence[str]:
        part = self._parts[task]
        if not part.sources:
            return self._sources.unlabelled(part.task)
        return [name for name in self._sources.names if name not in part.sources]

    def telling(self, task: str, known: Sequence[int] | None) -> Sequence[str]:
        return self._sources.telling(self._parts[task].task, known)

    def pictures(
        self, source: str, split: Split | None, batch_size: int, *, share: ProcessShare, limit: int | None
    ) -> Iterable[Batch]:
        return self._sources.pictures(source, split, batch_size, share=share, limit=limit)

    def hashed(self, task: str, split: Split = "test", sources: Collection[str] | None = None) -> bool:
        part = self._parts[task]
        return self._sources.hashed(part.task, split, part.sources or None)

    @property
    def names(self) -> Sequence[str]:
        return self._sources.names
