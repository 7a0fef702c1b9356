"""Student against teacher on each task's own labelled rows: scores, interval, classes, and the hardest rows.

Rows are looked at batch by batch, and only the dozen that may be shown are kept, so that memory does not grow with the
set. Called by `compare_networks`, and for baselines.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from distill_mtl.data.batch import Batch
from distill_mtl.evaluation.bootstrap import interval_of, unseen_difference
from distill_mtl.evaluation.evaluation_set import Comparison, Processes
from distill_mtl.evaluation.mcnemar import mcnemar
from distill_mtl.evaluation.result import CalibrationError, ClassDelta, Disagreement, McNemar, TaskResult
from distill_mtl.evaluation.row_statistics import RowStatistics, collect, known_classes, resampled_deltas
from distill_mtl.evaluation.seeds import groups_digest, kept_resamples
from distill_mtl.evaluation.slices import Rows, corrected, score_slices
from distill_mtl.tasks.base import Shown, TaskKind
from distill_mtl.tasks.metrics import calibration_error

Progress = Callable[[int, int], None]
"""Called with the number of rows done, and of how many, over all processes."""
MOST_DISAGREEMENTS = 12
_MOST_WORST = 3
_LONGEST = 80  # characters of a label or an answer in words


def compare_tasks(
    comparison: Comparison,
    *,
    resamples: int = 2000,
    seed: int = 0,
    progress: Progress | None = None,
    slices: Mapping[str, Rows] = MappingProxyType({}),
) -> dict[str, TaskResult]:
    """One result per task, the same on every process.

    Args:
        comparison: who is compared, and where.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        progress: called after every batch.
        slices: task -> keys of the rows of each slice.

    Raises:
        ShardError: a task has no labelled row in the set.
    """
    rows = comparison.rows
    tick = _ticker(progress, comparison.total, rows.processes.world)
    results = {}
    for task, kind in comparison.kinds.items():
        teacher = comparison.teachers.get(task)
        collector = DifferenceCollector(task, kind)
        known, observe = known_classes(teacher), collector.add
        found = collect(task, kind, comparison.student, teacher, rows, tick, known=known, observe=observe)
        calibration, disagreements = collector.joined(rows.processes)
        result = summarise(kind, found, resamples=resamples, seed=seed)
        results[task] = replace(
            result,
            ece=calibration,
            disagreements=disagreements,
            against=comparison.against.get(task),
            classes=_with_teachers(result.classes, kind, comparison.known_by.get(task)),
            slices=score_slices(kind, found, slices.get(task, {}), resamples=resamples, seed=seed),
        )
    return corrected(results)


def _with_teachers(
    classes: tuple[ClassDelta, ...] | None, kind: TaskKind, known_by: Sequence[tuple[str, ...]] | None
) -> tuple[ClassDelta, ...] | None:
    if classes is None or known_by is None:
        return classes
    who = dict(zip(kind.classes, known_by, strict=True))
    return tuple(replace(each, known_by=who[each.name]) for each in classes)


def summarise(kind: TaskKind, rows: RowStatistics, *, resamples: int, seed: int) -> TaskResult:
    """All that follows from the statistics of all rows: scores, signed difference, its interval, agreement, classes."""
    scores = kind.class_scores(rows.student)
    lacking = [] if scores is None else scores.isnan().nonzero().flatten().tolist()
    least = 2 if kind.exclusive else 1
    scored = TaskResult(
        kind=kind.name,
        metric=kind.metric,
        higher_is_better=kind.higher_is_better,
        in_points=kind.in_points,
        rows=len(rows.keys),
        groups=len(set(rows.groups)),
        student=float(kind.score(rows.student)),
        classes=class_deltas(kind, rows),
        unscored=tuple(kind.classes[place] for place in lacking),
        unmeasured=bool(lacking) and len(kind.classes) - len(lacking) < least,
    )
    if rows.teacher is None or rows.agreement is None:
        return scored
    sign = 1 if kind.higher_is_better else -1
    teacher = float(kind.score(rows.teacher))
    deltas = resampled_deltas(kind, rows, resamples=resamples, seed=seed)
    interval = None if deltas is None else interval_of(deltas, len(set(rows.groups)))
    return replace(
        scored,
        teacher=teacher,
        delta=sign * (scored.student - teacher),
        ci95=unseen_difference(len(rows.groups)) if interval == (0.0, 0.0) and kind.in_points else interval,
        resampled=() if deltas is None else kept_resamples(deltas),
        drawn_from=None if deltas is None else groups_digest(rows.groups),
        agreement=float(rows.agreement.mean()),
        mcnemar=_mcnemar(kind, rows),
    )


def _mcnemar(kind: TaskKind, rows: RowStatistics) -> McNemar | None:
    """Where the score is a share of right rows."""
    student = kind.correct_rows(rows.student)
    teacher = None if rows.teacher is None else kind.correct_rows(rows.teacher)
    return None if student is None or teacher is None else mcnemar(student, teacher, rows.groups)


def _ticker(progress: Progress | None, total: int, world: int) -> Callable[[int], None]:
    """Counts the rows of a process and tells `progress` about those of all of them."""
    done = 0

    def tick(rows: int) -> None:
        nonlocal done
        done = min(done + rows * world, total)
        if progress is not None:
            progress(done, total)

    return tick


class _Rank(NamedTuple):
    """The place of a row among the hardest; the least is the hardest.

    Attributes:
        loss: minus what its score loses.
        surer: minus how much surer of its mistake the student is than its teacher: of a decision, scores know only
            that it is wrong, so that many rows lose alike.
        key: of the row.
    """

    loss: float
    surer: float
    key: str


class DifferenceCollector:
    """Collects what the statistics do not contain, while both networks answer."""

    def __init__(self, task: str, kind: TaskKind) -> None:
        self._task = task
        self._kind = kind
        self._counts: list[Tensor | None] = [None, None]
        self._hardest: list[tuple[_Rank, Disagreement]] = []

    def add(self, batch: Batch, logits: Tensor, target: Tensor | None, found: RowStatistics) -> None:
        """One batch: what the student answers, what its teacher does, and the statistics of both."""
        labels = batch.labels[self._task]
        for place, answers in enumerate((logits, target)):
            counts = None if answers is None else self._kind.calibration(answers, labels)
            self._counts[place] = _added(self._counts[place], counts)
        if target is None or found.teacher is None:
            return
        sign = 1 if self._kind.higher_is_better else -1
        losses = sign * (self._kind.row_scores(found.teacher) - self._kind.row_scores(found.student))
        worse = (losses > 0).nonzero().flatten().tolist()
        if not worse:
            return
        surer = self._surer_mistakes(logits[worse], target[worse], labels[worse])
        ranks = [
            (_Rank(-float(losses[row]), -more, found.keys[row]), row)
            for row, more in zip(worse, surer, strict=True)
        ]
        for rank, row in sorted(ranks)[:MOST_DISAGREEMENTS]:
            if len(self._hardest) < MOST_DISAGREEMENTS or rank < self._hardest[-1][0]:
                self._keep(rank, self._described(batch, row, logits, target, -rank.loss))

    def joined(self, processes: Processes) -> tuple[CalibrationError | None, tuple[Disagreement, ...]]:
        """What all processes saw together, the same on each of them."""
        seen = processes.join([(self._counts, self._hardest)])
        student, teacher = None, None
        for counts, _ in seen:
            student, teacher = _added(student, counts[0]), _added(teacher, counts[1])
        hardest = sorted((each for _, some in seen for each in some), key=_rank)[:MOST_DISAGREEMENTS]
        calibration = None
        if student is not None:
            calibration = CalibrationError(
                calibration_error(student), None if teacher is None else calibration_error(teacher)
            )
        return calibration, tuple(found for _, found in hardest)

    def _surer_mistakes(self, logits: Tensor, target: Tensor, labels: Tensor) -> list[float]:
        """Of rows, by how much the supervised loss of the student exceeds the teacher's.

        To four digits of each: the last bits of an answer depend on how many rows its network answered at once, and
        the order of rows must not.
        """
        student, teacher = (
            self._kind.supervised_loss(answers, labels).double().nan_to_num().tolist()
            for answers in (logits, target)
        )
        return [
            float(f"{mine:.4g}") - float(f"{theirs:.4g}")
            for mine, theirs in zip(student, teacher, strict=True)
        ]

    def _keep(self, rank: "_Rank", found: Disagreement) -> None:
        self._hardest = sorted([*self._hardest, (rank, found)], key=_rank)[:MOST_DISAGREEMENTS]

    def _described(self, batch: Batch, row: int, logits: Tensor, target: Tensor, loss: float) -> Disagreement:
        image = (batch.images[row] * 255).round().to(torch.uint8).cpu()
        return Disagreement(
            key=batch.keys[row],
            teacher=_words(self._kind.show_answer(target[row].cpu(), image)),
            student=_words(self._kind.show_answer(logits[row].cpu(), image)),
            label=_words(self._kind.show_label(batch.labels[self._task][row].cpu(), image)),
            loss=loss,
        )


def class_deltas(kind: TaskKind, rows: RowStatistics) -> tuple[ClassDelta, ...] | None:
    """Of the classes that occur, in their order; None where the metric has no classes."""
    student = kind.class_scores(rows.student)
    teacher = None if rows.teacher is None else kind.class_scores(rows.teacher)
    if student is None:
        return None
    sign = 1 if kind.higher_is_better else -1
    deltas = []
    for place, (name, mine) in enumerate(zip(kind.classes, student.tolist(), strict=True)):
        theirs = None if teacher is None else float(teacher[place])
        if math.isfinite(mine) and (theirs is None or math.isfinite(theirs)):
            deltas.append(ClassDelta(name, theirs, mine, None if theirs is None else sign * (mine - theirs)))
    return tuple(deltas)


def worst_classes(result: TaskResult) -> list[ClassDelta]:
    """The classes of a task to report, worst first, at most three.

    Those that lose more than the margin, and as much more than their task does: else the task's own line says it.
    """
    bound = min(result.delta or 0.0, 0.0) - max(result.margin, 0.0)
    lost = [each for each in result.classes or () if each.delta is not None and each.delta < bound]
    return sorted(lost, key=lambda each: each.delta or 0.0)[:_MOST_WORST]


def _rank(kept: tuple[_Rank, Disagreement]) -> _Rank:
    return kept[0]


def _added(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return other if one is None else one if other is None else one + other


def _words(shown: Shown) -> str | None:
    text = shown.caption
    return (text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…") or None
