"""Student against teacher, task by task, on the task's own labelled rows. Called by `evaluate`."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from distill_mtl.evaluation.bootstrap import paired_interval, unseen_difference
from distill_mtl.evaluation.differences import Watch, class_deltas
from distill_mtl.evaluation.known import known_to
from distill_mtl.evaluation.mcnemar import McNemar, mcnemar
from distill_mtl.evaluation.results import TaskResult
from distill_mtl.evaluation.rows import RowStatistics, Student, Teacher, collect
from distill_mtl.evaluation.view import View
from distill_mtl.tasks.base import TaskKind

Progress = Callable[[int, int], None]
"""Told how many rows are done, of how many, over all processes."""


def compare(
    student: Student,
    teachers: Mapping[str, Teacher | None],
    kinds: Mapping[str, TaskKind],
    view: View,
    *,
    resamples: int = 2000,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, TaskResult]:
    """One result per task of `kinds`, the same on every process.

    Args:
        student: put into eval mode while it is measured, if it is a module.
        teachers: by task; a task that is absent or None is scored without a comparison.
        kinds: the tasks.
        view: the rows.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        progress: told after every batch.

    Raises:
        ShardError: a task has no labelled row in this split.
    """
    tick = _ticker(progress, sum(view.rows(task) for task in kinds), view.processes.world)
    results = {}
    for task, kind in kinds.items():
        teacher = teachers.get(task)
        watch = Watch(task, kind)
        rows = collect(task, kind, student, teacher, view, tick, known=known_to(teacher), watch=watch.see)
        calibration, disagreements = watch.joined(view.processes)
        results[task] = replace(
            summarise(kind, rows, resamples=resamples, seed=seed),
            ece=calibration,
            disagreements=disagreements,
        )
    return results


def summarise(kind: TaskKind, rows: RowStatistics, *, resamples: int, seed: int) -> TaskResult:
    """All that follows from the statistics of all rows: scores, signed difference, its interval, agreement, classes."""
    scored = TaskResult(
        kind=kind.name,
        metric=kind.metric,
        higher_is_better=kind.higher_is_better,
        in_points=kind.in_points,
        rows=len(rows.keys),
        groups=len(set(rows.groups)),
        student=float(kind.score(rows.student)),
        classes=class_deltas(kind, rows),
    )
    if rows.teacher is None or rows.agreement is None:
        return scored
    sign = 1 if kind.higher_is_better else -1
    teacher = float(kind.score(rows.teacher))
    return replace(
        scored,
        teacher=teacher,
        delta=sign * (scored.student - teacher),
        ci95=_interval(kind, rows, sign, resamples=resamples, seed=seed),
        agreement=float(rows.agreement.mean()),
        mcnemar=_mcnemar(kind, rows),
    )


def _mcnemar(kind: TaskKind, rows: RowStatistics) -> McNemar | None:
    """Where the score is a share of right rows."""
    student = kind.right_rows(rows.student)
    teacher = None if rows.teacher is None else kind.right_rows(rows.teacher)
    return None if student is None or teacher is None else mcnemar(student, teacher, rows.groups)


def _interval(
    kind: TaskKind, rows: RowStatistics, sign: int, *, resamples: int, seed: int
) -> tuple[float, float] | None:
    found = paired_interval(
        rows.groups,
        rows.student,
        rows.teacher,
        lambda statistics, weights: sign * kind.score(statistics, weights),
        additive=kind.additive,
        resamples=resamples,
        seed=seed,
    )
    return unseen_difference(len(rows.groups)) if found == (0.0, 0.0) and kind.in_points else found


def _ticker(progress: Progress | None, total: int, world: int) -> Callable[[int], None]:
    """Counts the rows of a process and tells `progress` about those of all of them."""
    done = 0

    def tick(rows: int) -> None:
        nonlocal done
        done = min(done + rows * world, total)
        if progress is not None:
            progress(done, total)

    return tick
