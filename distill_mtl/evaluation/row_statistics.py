"""Statistics of one or two networks' answers on every row of a task.

Both networks see the very same batches, and every number is kept by row, so that no result depends on the batch size
or on how rows were split over processes. A teacher may know only some of the classes. Its
logits for the others (`teachers.label_map.UNKNOWN`) are not answers, so neither it nor the student is scored on them,
in the check, along the way and in the comparison.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from distill_mtl.data.batch import Batch
from distill_mtl.errors import ShardError, UserError
from distill_mtl.evaluation.bootstrap import resampled_differences
from distill_mtl.evaluation.evaluation_set import EvaluationSet, Student, Teacher
from distill_mtl.networks.modes import evaluating
from distill_mtl.tasks.base import TaskKind

KnownClasses = tuple[int, ...] | None
"""Positions of the classes that a teacher knows; None: all of them."""


@dataclass(frozen=True)
class RowStatistics:
    """What was counted on R rows of one task.

    Attributes:
        keys: identities of the rows.
        groups: what they share with others.
        student: float64 [R, K], the kind's statistics.
        teacher: the same for the teacher, or None.
        agreement: float64 [R], or None.
    """

    keys: list[str]
    groups: list[str]
    student: Tensor
    teacher: Tensor | None
    agreement: Tensor | None


RowObserver = Callable[[Batch, Tensor, Tensor | None, RowStatistics], None]
"""Called with a batch, the student's logits, the teacher's, and the statistics."""


def collect(
    task: str,
    kind: TaskKind,
    student: Student,
    teacher: Teacher | None,
    evaluation_set: EvaluationSet,
    tick: Callable[[int], None] = lambda rows: None,
    *,
    known: KnownClasses = None,
    observe: RowObserver | None = None,
) -> RowStatistics:
    """Run both networks over the task's rows; all processes' rows together, in the order of their keys.

    Args:
        task, kind: what is measured.
        student, teacher: on the device of the set.
        evaluation_set: the rows.
        tick: called with the number of rows after every batch.
        known: the classes that the teacher knows, if not all: both are scored on those alone.
        observe: called with each batch, its answers and its statistics.

    Raises:
        ShardError: there is no row.
        UserError: an answer is not a number.
    """
    parts = []
    # Where classes exclude each other, never to say one of them is an answer like any other.
    compared = slice(None) if known is None or kind.exclusive else list(known)
    with torch.no_grad(), examined(student):
        for batch in evaluation_set.batches(task):
            tick(len(batch))
            if known is not None:
                batch = still_labelled(within_known(batch, kind, task, known), kind, task)
            if not len(batch):
                continue
            labels = batch.labels[task]
            logits = logits_in(student(batch.images)[task])
            target = None if teacher is None else teacher(batch.images).logits
            refuse_nan("student", task, logits, batch.keys)
            if target is not None:
                refuse_nan("teacher", task, target, batch.keys)
            part = RowStatistics(
                keys=batch.keys,
                groups=batch.groups or batch.keys,
                student=kind.statistics(logits, labels),
                teacher=None if target is None else kind.statistics(target, labels),
                agreement=None
                if target is None
                else kind.agreement(logits[:, compared], target[:, compared]),
            )
            parts.append(part)
            if observe is not None:
                observe(batch, logits, target, part)
    parts = evaluation_set.processes.join(parts)
    if not parts:
        known_row = None if known is None else _no_known_row(task, kind, evaluation_set, known)
        raise known_row or no_row(task, evaluation_set)
    return _merge(parts)


def resampled_deltas(kind: TaskKind, rows: RowStatistics, *, resamples: int, seed: int) -> Tensor | None:
    """float64 [S]: student minus teacher on each resample of the groups, positive where the student is better; None
    for fewer than two groups.

    Args:
        kind: of the task.
        rows: of both networks.
        resamples: S.
        seed: of the draws.
    """
    sign = 1 if kind.higher_is_better else -1
    return resampled_differences(
        rows.groups,
        rows.student,
        rows.teacher,
        lambda statistics, weights: sign * kind.score(statistics, weights),
        additive=kind.additive,
        resamples=resamples,
        seed=seed,
    )


def refuse_nan(who: str, task: str, logits: Tensor, keys: Sequence[str]) -> None:
    """Refuse NaN: a score would count it as an ordinary answer, such as the first class."""
    broken = logits.isnan().flatten(1).any(1).cpu()
    if broken.any():
        row = int(broken.nonzero()[0])
        error = UserError(
            f"task '{task}': the {who} answers {keys[row]} with NaN. Possible causes: training diverged, fp16 "
            "overflowed, or the network divides by a value that can be 0."
        )
        error.everywhere = False
        raise error


def no_row(task: str, evaluation_set: EvaluationSet) -> ShardError:
    """The error of a task that cannot be measured."""
    found = f"task '{task}' has no labelled row in {_name(evaluation_set)}, so it cannot be measured."
    key = f"data.SOURCE.split.{evaluation_set.split}"
    ways = f" Name labelled shards under {key}, or leave that key out: then a share of the rows is split off."
    return ShardError(found if evaluation_set.split is None else found + ways)


def _no_known_row(
    task: str, kind: TaskKind, evaluation_set: EvaluationSet, known: Sequence[int]
) -> ShardError:
    return ShardError(
        f"task '{task}' has no row in {_name(evaluation_set)} with a label of a class that its teacher knows "
        f"({', '.join(kind.classes[place] for place in known)}), so the two cannot be compared."
    )


def _name(evaluation_set: EvaluationSet) -> str:
    return "the data" if evaluation_set.split is None else f"the {evaluation_set.split} set"


def examined(student: Student) -> AbstractContextManager[object]:
    """For the block a student that is a module is in evaluation mode."""
    return evaluating(student) if isinstance(student, nn.Module) else nullcontext()


def logits_in(answer: Tensor | Mapping[str, Tensor]) -> Tensor:
    """The logits of one task in what a student answers."""
    return answer["logits"] if isinstance(answer, Mapping) else answer


def _merge(parts: Sequence[RowStatistics]) -> RowStatistics:
    """Sorted by key, so that sums round alike however the rows were split."""
    keys = [key for part in parts for key in part.keys]
    groups = [group for part in parts for group in part.groups]
    order = sorted(range(len(keys)), key=keys.__getitem__)

    def join(tensors: list[Tensor | None]) -> Tensor | None:
        known = [tensor for tensor in tensors if tensor is not None]
        return torch.cat(known)[order] if known else None

    return RowStatistics(
        keys=[keys[index] for index in order],
        groups=[groups[index] for index in order],
        student=torch.cat([part.student for part in parts])[order],
        teacher=join([part.teacher for part in parts]),
        agreement=join([part.agreement for part in parts]),
    )


def known_classes(teacher: object) -> KnownClasses:
    """The classes that a network knows, where it says so."""
    known: KnownClasses = getattr(teacher, "known", None)
    return known


def within_known(batch: Batch, kind: TaskKind, task: str, known: KnownClasses) -> Batch:
    """The batch with labels of the classes in `known` alone, where the kind can tell them apart."""
    if known is None:
        return batch
    return replace(batch, labels={**batch.labels, task: kind.keep_known_classes(batch.labels[task], known)})


def still_labelled(batch: Batch, kind: TaskKind, task: str) -> Batch:
    """The rows of a batch whose label says something."""
    keep = [row for row, label in enumerate(batch.labels[task]) if kind.has_label(label)]
    return batch.only(torch.tensor(keep, dtype=torch.long))
