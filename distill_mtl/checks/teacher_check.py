"""Every teacher is measured on its own labelled rows before it teaches; one that falls short gets a diagnosis.

`before_training` checks all teachers of a run; `teacher check` measures one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from distill_mtl.checks.diagnoses import (
    BATCH_DEPENDENT,
    Diagnosis,
    depends_on_batch,
    diagnose,
    find_better_preprocessing,
)
from distill_mtl.checks.precision import choose_precision
from distill_mtl.checks.teacher_score import (
    LIMIT,
    ExpectedScore,
    LabelledRows,
    MeasuredScore,
    measure_score,
    score_problem,
)
from distill_mtl.data import Sources
from distill_mtl.display import mark
from distill_mtl.errors import TeacherError
from distill_mtl.evaluation.row_statistics import within_known
from distill_mtl.recipe import Recipe
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.splits import Split
from distill_mtl.tasks.base import TaskKind
from distill_mtl.teachers.teacher import Teacher

ROWS_AT_A_TIME = 128
_ROWS_OF_BATCH_TEST = 16

_COLUMNS = ("task", "teacher", "sha256", "metric", "rows", "recorded", "measured", "", "in")

_NO_CAUSE = (
    "No other normalisation, range, order of colours, size or order of classes explains it. Are these the right "
    "weights, and is this the data that they were trained for?"
)


@dataclass(frozen=True)
class TeacherCheck:
    """What was found out about one teacher.

    Attributes:
        teacher: that was measured.
        measured: its score; None where no row is labelled for the task.
        expected: the score that it should have; None if unknown.
        problem: what is wrong, with the likely cause; None if nothing is.
        precision: of its targets.
        split: the rows that it was measured on.
    """

    teacher: Teacher
    measured: MeasuredScore | None
    expected: ExpectedScore | None
    problem: str | None
    precision: str = "fp32"
    split: Split = "validation"


def check_teachers(
    recipe: Recipe,
    teachers: Mapping[str, Teacher],
    kinds: Mapping[str, TaskKind],
    sources: Sources,
    device: torch.device,
) -> dict[str, TeacherCheck]:
    """Measure each teacher on validation rows through the run's own data path, and diagnose those that fall short.

    A task whose labelled rows are all for testing has its teacher measured on those.
    """

    def rows(task: str) -> LabelledRows:
        return lambda limit: (
            batch.to(device)
            for batch in sources.labelled(task, _split(task, sources), ROWS_AT_A_TIME, limit=limit)
        )

    examined: dict[str, TeacherCheck] = {}
    for task, teacher in teachers.items():
        section = recipe.tasks[task].network
        assert section is not None
        expected = expected_score(section, teacher, kinds[task])
        found = measure_teacher(teacher.to(device), kinds[task], task, rows(task), expected, limit=LIMIT)
        if found.problem is None:
            score = found.measured.score if found.measured is not None else None
            known = _with_known_labels(teacher, kinds[task], task, rows(task))
            precision = choose_precision(section, teacher, kinds[task], task, known, score)
            found = replace(found, precision=precision)
        examined[task] = replace(found, split=_split(task, sources))
    return examined


def _split(task: str, sources: Sources) -> Split:
    return "validation" if sources.count(task, "validation") else "test"


def measure_teacher(
    teacher: Teacher,
    kind: TaskKind,
    task: str,
    rows: LabelledRows,
    expected: ExpectedScore | None,
    *,
    limit: int | None,
) -> TeacherCheck:
    """Measure one teacher on at most `limit` rows, on the classes that it knows; diagnose it if it falls short."""
    rows = _with_known_labels(teacher, kind, task, rows)
    measured = measure_score(lambda images: teacher(images).logits, kind, task, rows(limit))
    if measured is None:
        return TeacherCheck(teacher, None, expected, None)
    found = _find_problem(teacher, kind, task, rows, measured, expected)
    return TeacherCheck(teacher, measured, expected, f"{teacher.card.file} {found}" if found else None)


def _with_known_labels(teacher: Teacher, kind: TaskKind, task: str, rows: LabelledRows) -> LabelledRows:
    """The same rows, with labels of the classes that the teacher knows."""
    return lambda limit: (within_known(batch, kind, task, teacher.known) for batch in rows(limit))


def _find_problem(
    teacher: Teacher,
    kind: TaskKind,
    task: str,
    rows: LabelledRows,
    measured: MeasuredScore,
    expected: ExpectedScore | None,
) -> str | None:
    """What is wrong with a measured teacher and why, as what follows its file's name."""
    on = f"in {kind.metric} on {measured.rows:,} labelled rows"
    if depends_on_batch(teacher, next(iter(rows(_ROWS_OF_BATCH_TEST))).images):
        return f"scores {measured.score:.2f} {on}, but {BATCH_DEPENDENT.cause} {BATCH_DEPENDENT.remedy}"
    wrong = score_problem(measured, expected, kind)
    if wrong is None and expected is not None:
        return None
    if wrong is not None:
        goal = expected.score if expected is not None else None
        diagnosis = diagnose(teacher, kind, task, list(rows(LIMIT)), measured, goal)
        return f"{wrong} {on}. {_cause(diagnosis, measured, kind)}"
    diagnosis = find_better_preprocessing(teacher, kind, task, rows, measured)
    if diagnosis is None:
        return None
    better = "and is better with another preprocessing"
    return f"scores {measured.score:.2f} {on}, {better}. {_cause(diagnosis, measured, kind)}"


def _cause(diagnosis: Diagnosis | None, measured: MeasuredScore, kind: TaskKind) -> str:
    why = f"Likely cause: {diagnosis.cause}. {diagnosis.remedy}" if diagnosis is not None else _NO_CAUSE
    return (
        f"{why} If this is the score that you expect, record it with `expect: {as_expected(measured, kind)}`."
    )


def as_expected(measured: MeasuredScore, kind: TaskKind) -> str:
    """The score as the value of a recipe's `expect`."""
    return f"{measured.score:.1f}" if kind.in_points else f"{measured.score:.4g}"


def show_teachers(
    console: Console, examined: Mapping[str, TeacherCheck], kinds: Mapping[str, TaskKind]
) -> None:
    """Print each teacher, the score that it should have, and its score here."""
    table = Table(
        title="teachers on their own labelled validation rows",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    rows = [_cells(task, result, kinds[task].metric) for task, result in examined.items()]
    for column, *cells in zip(_COLUMNS, *rows, strict=True):
        # A narrow console shortens the teacher's name, never a figure.
        widest = max(len(column), *(len(str(cell)) for cell in cells))
        table.add_column(
            column,
            justify="right" if column in ("rows", "recorded", "measured") else "left",
            no_wrap=column != "teacher",
            overflow="ellipsis",
            min_width=len(column) if column == "teacher" else widest,
        )
    for row in rows:
        table.add_row(*row)
    console.print(table)
    if tested := [task for task, result in examined.items() if result.split == "test"]:
        note = f"{', '.join(tested)}: on test rows, the only ones with labels"
        console.print(note, style="dim", highlight=False, soft_wrap=True)
    for task, result in examined.items():
        if result.measured is not None and result.expected is None and result.problem is None:
            console.print(
                f"{task}: {result.teacher.card.name} has no recorded score. It measures "
                f"{result.measured.score:.2f} here (a constant answer: {result.measured.constant:.2f}): is that what "
                f"you expect? Record it with `expect: {as_expected(result.measured, kinds[task])}`.",
                style="dim",
                highlight=False,
                soft_wrap=True,
            )


def _cells(task: str, result: TeacherCheck, metric: str) -> tuple[str | Text, ...]:
    measured, expected = result.measured, result.expected
    return (
        task,
        result.teacher.card.name,
        result.teacher.card.sha256[:6],
        metric,
        f"{measured.rows:,}" if measured else "0",
        f"{expected.score:.2f}" if expected else "-",
        f"{measured.score:.2f} ± {measured.error:.2f}" if measured else "not measured",
        mark(False) if result.problem else mark(True) if measured else "?",
        result.precision,
    )


def refuse_bad_teachers(examined: Mapping[str, TeacherCheck]) -> None:
    """Raise one TeacherError that names every teacher with a problem."""
    problems = [
        f"tasks.{task}.teacher: {result.problem}" for task, result in examined.items() if result.problem
    ]
    if problems:
        raise TeacherError("\n".join(problems))


def expected_score(section: TeacherSection | None, teacher: Teacher, kind: TaskKind) -> ExpectedScore | None:
    """The recipe's `expect`, else what the teacher's folder records for the same metric; None without either."""
    if section is not None and section.expect is not None:
        return ExpectedScore(section.expect)
    recorded = teacher.card.score
    if recorded is not None and recorded.metric == kind.metric:
        return ExpectedScore(recorded.score, recorded.rows)
    return None
