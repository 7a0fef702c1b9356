"""Networks that are compared, their rows, and the processes that share them."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from accelerate.utils import gather_object
from torch import Tensor

from distill_mtl.data.batch import Batch, ProcessShare
from distill_mtl.data.source import RowMembers
from distill_mtl.splits import Split
from distill_mtl.targets.ensembles import Ensemble
from distill_mtl.tasks.base import TaskKind
from distill_mtl.teachers.teacher import TeacherOutput

Student = Callable[[Tensor], Mapping[str, Any]]
"""Images -> logits by task, or, as an exported student answers, a dict with `logits` by task."""
Teacher = Callable[[Tensor], TeacherOutput]


class LabelledRows(Protocol):
    """The data sets as evaluation needs them; `distill_mtl.data` implements this."""

    @property
    def names(self) -> Sequence[str]:
        """Of the data sets."""

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
        """This process's share of the rows that are labelled for the task, without augmentation."""

    def count(self, task: str, split: Split | None, sources: Collection[str] | None = None) -> int:
        """How many rows there are over all processes."""

    @property
    def endings(self) -> Collection[str]:
        """The members that rows have."""

    def members(
        self, task: str, split: Split | None, members: Collection[str], sources: Collection[str] | None = None
    ) -> Iterable[RowMembers]:
        """What the rows of all processes that are labelled for the task carry in some members."""

    def telling(self, task: str, known: Sequence[int] | None) -> Sequence[str]:
        """The sources whose labels of the task tell of these classes; None: of all."""

    def unlabelled(self, task: str) -> Sequence[str]:
        """The sources that have no labels of the task."""

    def pictures(
        self, source: str, split: Split | None, batch_size: int, *, share: ProcessShare, limit: int | None
    ) -> Iterable[Batch]:
        """This process's share of a source's rows, without labels and augmentation."""

    def hashed(self, task: str, split: Split = "test", sources: Collection[str] | None = None) -> bool:
        """Whether the test rows were split off by a hash, so that a teacher may have seen them."""


@dataclass(frozen=True)
class Processes(ProcessShare):
    """The process that asks, among all that evaluate together.

    Attributes:
        gather: joins a list of every process, on every process.
    """

    gather: Callable[[list[Any]], list[Any]] = gather_object

    def join(self, items: list[Any]) -> list[Any]:
        """The items of all processes, in the order of their ranks."""
        return items if self.world == 1 else self.gather(items)


@dataclass(frozen=True)
class EvaluationSet:
    """Which rows are looked at, and how.

    Attributes:
        sources: the opened data sets.
        split: train, validation or test; None: all rows, whatever their set.
        batch_size: rows per forward pass; no result depends on it.
        device: where the networks are.
        limit: look at so many rows of each task alone, spread evenly.
        only: look at the rows with these keys alone; None: at all.
        processes: who shares the work.
    """

    sources: LabelledRows
    split: Split | None
    batch_size: int = 256
    device: torch.device | str = "cpu"
    limit: int | None = None
    only: Collection[str] | None = None
    processes: Processes = Processes()

    def rows(self, task: str) -> int:
        """Rows of the task over all processes."""
        count = self.sources.count(task, self.split)
        return count if self.limit is None else min(count, self.limit)

    def batches(self, task: str) -> Iterator[Batch]:
        """This process's share on the device."""
        for batch in self.sources.labelled(
            task,
            self.split,
            self.batch_size,
            share=self.processes,
            limit=self.limit,
            only=self.only,
        ):
            yield batch.to(self.device)

    def pictures(self, source: str, most: int) -> Iterator[Batch]:
        """This process's share of at most so many rows of a source, spread evenly, without labels, on the device."""
        for batch in self.sources.pictures(
            source, self.split, self.batch_size, share=self.processes, limit=most
        ):
            yield batch.to(self.device)


@dataclass(frozen=True)
class Comparison:
    """A student, the teachers that it is compared with, and the rows.

    Attributes:
        student: on the device of the rows; put into eval mode while it is measured, if it is a module.
        teachers: on the same device, by task, or by name those of a task with several; a task that is absent or None is
            scored without a comparison.
        kinds: the tasks.
        rows: where both are measured.
        ensembles: task -> how its several teachers are combined; those that are not named are averaged.
        against: task -> who the teacher is, in words, where that needs to be said.
        known_by: task -> of each class the teachers that know it, where a task has several.
    """

    student: Student
    teachers: Mapping[str, Teacher | None]
    kinds: Mapping[str, TaskKind]
    rows: EvaluationSet
    ensembles: Mapping[str, Sequence[Ensemble]] = field(default_factory=dict)
    against: Mapping[str, str] = field(default_factory=dict)
    known_by: Mapping[str, Sequence[tuple[str, ...]]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Rows of all tasks, over all processes."""
        return sum(self.rows.rows(task) for task in self.kinds)
