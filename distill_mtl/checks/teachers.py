"""Every teacher on its own labelled validation rows, before it is believed."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from distill_mtl.checks.measure import Measured, measure
from distill_mtl.checks.precision import choose_precision
from distill_mtl.checks.suspects import find_suspect
from distill_mtl.checks.verdict import Expected, complaint
from distill_mtl.data import Sources
from distill_mtl.errors import TeacherError
from distill_mtl.recipe import Recipe
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.tasks.base import TaskKind
from distill_mtl.teachers.teacher import Teacher

LIMIT = 2000


@dataclass(frozen=True)
class Examined:
    """One teacher's result.

    Attributes:
        teacher: who was measured.
        measured: its score; None where no row is labelled for the task.
        expected: what it is known to score; None where nobody says.
        problem: what is wrong, with the likely cause; None if nothing is.
        precision: of its targets.
    """

    teacher: Teacher
    measured: Measured | None
    expected: Expected | None
    problem: str | None
    precision: str = "fp32"


def examine_teachers(
    recipe: Recipe,
    teachers: Mapping[str, Teacher],
    kinds: Mapping[str, TaskKind],
    sources: Sources,
    device: torch.device,
) -> dict[str, Examined]:
    """Measure each teacher through the run's own data path; look for a cause where it falls short."""
    return {
        task: _examine(
            recipe,
            task,
            teacher.to(device),
            kinds[task],
            sources,
            device,
            _expected(recipe, task, teacher, kinds[task]),
        )
        for task, teacher in teachers.items()
    }


def show_teachers(console: Console, examined: Mapping[str, Examined], kinds: Mapping[str, TaskKind]) -> None:
    """Print what was loaded, what it is known to score, and what it scored here."""
    table = Table(
        title="teachers on their own labelled validation rows",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for column in ("task", "teacher", "sha256", "metric", "rows", "recorded", "measured", "", "targets in"):
        table.add_column(column, justify="right" if column in ("rows", "recorded", "measured") else "left")
    for task, result in examined.items():
        measured, expected = result.measured, result.expected
        table.add_row(
            task,
            result.teacher.card.place.name,
            result.teacher.card.sha256[:8],
            kinds[task].metric,
            str(measured.rows) if measured else "0",
            f"{expected.score:.2f}" if expected else "-",
            f"{measured.score:.2f} ± {measured.error:.2f}" if measured else "not measured",
            "[red]✗[/red]" if result.problem else "[green]✓[/green]" if measured else "?",
            result.precision,
        )
    console.print(table)


def refuse_bad_teachers(examined: Mapping[str, Examined]) -> None:
    """Raise one TeacherError that names every teacher with a problem."""
    problems = [
        f"tasks.{task}.teacher: {result.problem}" for task, result in examined.items() if result.problem
    ]
    if problems:
        raise TeacherError("\n".join(problems))


def _examine(
    recipe: Recipe,
    task: str,
    teacher: Teacher,
    kind: TaskKind,
    sources: Sources,
    device: torch.device,
    expected: Expected | None,
) -> Examined:
    batches = [batch.to(device) for batch in sources.labelled(task, "validation", 128, limit=LIMIT)]
    section = recipe.tasks[task].teacher
    assert section is not None
    if not batches:
        return Examined(teacher, None, expected, None, _unmeasured(section))
    measured = measure(lambda images: teacher(images).logits, kind, task, batches)
    wrong = complaint(measured, expected, higher_is_better=kind.higher_is_better)
    if wrong is None:
        precision = choose_precision(section, teacher, kind, task, batches, measured.score)
        return Examined(teacher, measured, expected, None, precision)
    suspect = find_suspect(teacher, kind, task, batches, measured, expected.score if expected else None)
    cause = (
        f"Likely cause: {suspect.what} (it scores {suspect.score:.2f} when read so)."
        if suspect is not None
        else "No other normalisation, range, colour order or class order explains it: are these the right weights, "
        "and is this the data they were trained for?"
    )
    problem = (
        f"{teacher.card.file} {wrong} in {kind.metric} on {measured.rows} labelled validation rows. {cause} "
        f"If the score is what you expect, say so: tasks.{task}.teacher.expect: {measured.score:.1f}."
    )
    return Examined(teacher, measured, expected, problem)


def _unmeasured(section: TeacherSection) -> str:
    """Without a score to keep, nothing is risked."""
    return section.precision if section.precision != "auto" else "fp32"


def _expected(recipe: Recipe, task: str, teacher: Teacher, kind: TaskKind) -> Expected | None:
    """The recipe's word first, then what the teacher's folder records for the same metric."""
    section = recipe.tasks[task].teacher
    if section is not None and section.expect is not None:
        return Expected(section.expect)
    recorded = teacher.card.score
    if recorded is not None and recorded.metric == kind.metric:
        return Expected(recorded.score, recorded.rows)
    return None
