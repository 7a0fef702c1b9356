"""Every teacher on its own labelled rows, before it is believed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from distill_mtl.checks.diagnoses import (
    BATCH,
    Suspect,
    depends_on_batch,
    find_misreading,
    find_suspect,
)
from distill_mtl.checks.precision import choose_precision
from distill_mtl.checks.teacher_score import LIMIT, Expected, Measured, Rows, complaint, measure
from distill_mtl.data import Sources
from distill_mtl.data.split import Split
from distill_mtl.errors import TeacherError
from distill_mtl.evaluation.known import asked_about
from distill_mtl.recipe import Recipe
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.tasks.base import TaskKind
from distill_mtl.teachers.teacher import Teacher

ROWS_AT_A_TIME = 128
_TOGETHER = 16

_COLUMNS = ("task", "teacher", "sha256", "metric", "rows", "recorded", "measured", "", "in")

_NO_CAUSE = (
    "No other normalisation, range, order of colours, size or order of classes explains it: are these the right "
    "weights, and is this the data they were trained for?"
)


@dataclass(frozen=True)
class Examined:
    """One teacher's result.

    Attributes:
        teacher: who was measured.
        measured: its score; None where no row is labelled for the task.
        expected: what it is known to score; None where nobody says.
        problem: what is wrong, with the likely cause; None if nothing is.
        precision: of its targets.
        split: the rows that it was measured on.
    """

    teacher: Teacher
    measured: Measured | None
    expected: Expected | None
    problem: str | None
    precision: str = "fp32"
    split: Split = "validation"


def examine_teachers(
    recipe: Recipe,
    teachers: Mapping[str, Teacher],
    kinds: Mapping[str, TaskKind],
    sources: Sources,
    device: torch.device,
) -> dict[str, Examined]:
    """Measure each teacher on validation rows through the run's own data path; find out why one falls short.

    Where a task has none, because its rows are for testing alone, its teacher is measured on those.
    """

    def rows(task: str) -> Rows:
        return lambda limit: (
            batch.to(device)
            for batch in sources.labelled(task, _split(task, sources), ROWS_AT_A_TIME, limit=limit)
        )

    examined: dict[str, Examined] = {}
    for task, teacher in teachers.items():
        section = recipe.tasks[task].teacher
        assert section is not None
        expected = expected_score(section, teacher, kinds[task])
        found = examine(teacher.to(device), kinds[task], task, rows(task), expected, limit=LIMIT)
        if found.problem is None:
            score = found.measured.score if found.measured is not None else None
            asked = _asked_of(teacher, kinds[task], task, rows(task))
            precision = choose_precision(section, teacher, kinds[task], task, asked, score)
            found = replace(found, precision=precision)
        examined[task] = replace(found, split=_split(task, sources))
    return examined


def _split(task: str, sources: Sources) -> Split:
    return "validation" if sources.count(task, "validation") else "test"


def examine(
    teacher: Teacher,
    kind: TaskKind,
    task: str,
    rows: Rows,
    expected: Expected | None,
    *,
    limit: int | None,
) -> Examined:
    """Measure one teacher on at most `limit` rows, by the classes that it knows; find out why it falls short."""
    rows = _asked_of(teacher, kind, task, rows)
    measured = measure(lambda images: teacher(images).logits, kind, task, rows(limit))
    if measured is None:
        return Examined(teacher, None, expected, None)
    found = _find_problem(teacher, kind, task, rows, measured, expected)
    return Examined(teacher, measured, expected, f"{teacher.card.file} {found}" if found else None)


def _asked_of(teacher: Teacher, kind: TaskKind, task: str, rows: Rows) -> Rows:
    """The same rows with labels of the classes that the teacher knows."""
    return lambda limit: (asked_about(batch, kind, task, teacher.known) for batch in rows(limit))


def _find_problem(
    teacher: Teacher,
    kind: TaskKind,
    task: str,
    rows: Rows,
    measured: Measured,
    expected: Expected | None,
) -> str | None:
    """What is wrong with a measured teacher and why, as what follows its name."""
    on = f"in {kind.metric} on {measured.rows:,} labelled rows"
    if depends_on_batch(teacher, next(iter(rows(_TOGETHER))).images):
        return f"scores {measured.score:.2f} {on}, but {BATCH.what} {BATCH.mend}"
    wrong = complaint(measured, expected, kind)
    if wrong is None and expected is not None:
        return None
    if wrong is not None:
        goal = expected.score if expected is not None else None
        suspect = find_suspect(teacher, kind, task, list(rows(LIMIT)), measured, goal)
        return f"{wrong} {on}. {_cause(suspect, measured, kind)}"
    suspect = find_misreading(teacher, kind, task, rows, measured)
    if suspect is None:
        return None
    better = "and does better when it is read in another way"
    return f"scores {measured.score:.2f} {on}, {better}. {_cause(suspect, measured, kind)}"


def _cause(suspect: Suspect | None, measured: Measured, kind: TaskKind) -> str:
    said = f"{measured.score:.1f}" if kind.in_points else f"{measured.score:.4g}"
    why = f"Likely cause: {suspect.what}. {suspect.mend}" if suspect is not None else _NO_CAUSE
    return f"{why} If the score is what you expect, say so: `expect: {said}`."


def show_teachers(console: Console, examined: Mapping[str, Examined], kinds: Mapping[str, TaskKind]) -> None:
    """Print what was loaded, what it is known to score, and what it scored here."""
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
        # Where the console is narrow, the name of the teacher is shortened, and no figure.
        widest = max(len(column), *(len(Text.from_markup(cell)) for cell in cells))
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
                f"{task}: nobody says what {result.teacher.card.name} should score. Is "
                f"{result.measured.score:.2f} what you know of it? (a constant answer: {result.measured.constant:.2f})",
                style="dim",
                highlight=False,
                soft_wrap=True,
            )


def _cells(task: str, result: Examined, metric: str) -> tuple[str, ...]:
    measured, expected = result.measured, result.expected
    return (
        task,
        result.teacher.card.name,
        result.teacher.card.sha256[:6],
        metric,
        f"{measured.rows:,}" if measured else "0",
        f"{expected.score:.2f}" if expected else "-",
        f"{measured.score:.2f} ± {measured.error:.2f}" if measured else "not measured",
        "[red]✗[/red]" if result.problem else "[green]✓[/green]" if measured else "?",
        result.precision,
    )


def refuse_bad_teachers(examined: Mapping[str, Examined]) -> None:
    """Raise one TeacherError that names every teacher with a problem."""
    problems = [
        f"tasks.{task}.teacher: {result.problem}" for task, result in examined.items() if result.problem
    ]
    if problems:
        raise TeacherError("\n".join(problems))


def expected_score(section: TeacherSection | None, teacher: Teacher, kind: TaskKind) -> Expected | None:
    """The recipe's word first, then what the teacher's folder records for the same metric."""
    if section is not None and section.expect is not None:
        return Expected(section.expect)
    recorded = teacher.card.score
    if recorded is not None and recorded.metric == kind.metric:
        return Expected(recorded.score, recorded.rows)
    return None
