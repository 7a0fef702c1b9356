"""`distill-mtl teacher check`: one teacher, measured as a run would before its first step, without a recipe.

`distill-mtl teacher train`: the same machinery with one task and no teacher, saved as a teacher's folder.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from distill_mtl.checks.teacher_check import ROWS_AT_A_TIME, TeacherCheck, expected_score, measure_teacher
from distill_mtl.data import DataSettings, Sources, open_sources
from distill_mtl.data.batch import Batch
from distill_mtl.data.shard_sets import as_patterns, find_sets
from distill_mtl.display import output
from distill_mtl.errors import RecipeError, TeacherError, UserError
from distill_mtl.evaluation import Evaluation, TaskResult
from distill_mtl.jobs.distill import distill
from distill_mtl.networks.weights import RecordedScore, write_score
from distill_mtl.recipe import Recipe, load_recipe
from distill_mtl.recipe.command_line import read_teacher
from distill_mtl.recipe.load import absolute_teacher
from distill_mtl.recipe.schema import LabelSection, SourceSection, TeacherSection
from distill_mtl.students.student_folder import load_student, save_student
from distill_mtl.students.timm_form import save_timm
from distill_mtl.tasks.base import TaskKind
from distill_mtl.teachers.load_teacher import kind_of, load_teacher
from distill_mtl.teachers.teacher import Teacher
from distill_mtl.training.run_folder import RunFolder


def check_teacher(
    values: Mapping[str, Any],
    overrides: Sequence[str],
    task: str,
    data: Sequence[str],
    *,
    member: str | None = None,
    kind: str | None = None,
    classes: tuple[str, ...] | int | None = None,
    limit: int | None = None,
) -> None:
    """Measure a teacher on all labelled rows of some shards, and say what is wrong where it falls short.

    Args:
        values, overrides, task: as in `read_teacher`.
        data: folders, paths and patterns of shards; their rows are not cut into sets.
        member: of the label; None: the kind's.
        kind: of the task; None: the teacher's.
        classes: of the task, in the order of the label numbers; None: the teacher's.
        limit: at most this many rows, spread evenly.

    Raises:
        TeacherError: it cannot be loaded, or falls short.
        ShardError: the shards cannot be read, or have no such labels.
    """
    section = read_teacher(values, overrides, task)
    teacher = load_teacher(absolute_teacher(section), task=task, kind=kind, classes=classes)
    measured_as = kind_of(teacher)
    sources = _sources(task, teacher, measured_as, data, member)
    examined = _examine(teacher, measured_as, task, sources, section, limit)
    _show(examined, measured_as, data)
    if examined.problem is not None:
        raise TeacherError(examined.problem)


def _sources(
    task: str,
    teacher: Teacher,
    kind: TaskKind,
    data: Sequence[str],
    member: str | None,
) -> Sources:
    shards = as_patterns([path for paths in find_sets(data).values() for path in paths])
    label = LabelSection(member=member)
    settings = DataSettings({task: SourceSection(shards=shards or [], labels={task: label})})
    return open_sources(settings, {task: kind}, teacher.card.inputs.size, every_set=False)


def _examine(
    teacher: Teacher, kind: TaskKind, task: str, sources: Sources, section: TeacherSection, limit: int | None
) -> TeacherCheck:
    """As a run does, with a bar for as long as it takes."""
    device = PartialState().device
    number = min(sources.count(task, None), limit or sources.count(task, None))
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("measuring", total=number)

        def watched(batches: Iterable[Batch]) -> Iterator[Batch]:
            for batch in batches:
                yield batch.to(device)
                progress.advance(bar, len(batch))
            progress.update(bar, description="looking closer")

        def rows(most: int | None) -> Iterable[Batch]:
            return watched(sources.labelled(task, None, ROWS_AT_A_TIME, limit=most))

        return measure_teacher(
            teacher.to(device), kind, task, rows, expected_score(section, teacher, kind), limit=limit
        )


def _show(examined: TeacherCheck, kind: TaskKind, data: Sequence[str]) -> None:
    console, card = output(), examined.teacher.card
    measured, expected = examined.measured, examined.expected
    assert measured is not None, "every row of a source is labelled"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("metric", "rows", "measured", "recorded", "a constant answer", ""):
        table.add_column(column, justify="left" if column == "metric" else "right")
    table.add_row(
        kind.metric,
        f"{measured.rows:,}",
        f"{measured.score:.2f} ± {measured.error:.2f}",
        f"{expected.score:.2f}" if expected else "–",
        f"{measured.constant:.2f}",
        "[red]✗[/red]" if examined.problem else "[green]✓[/green]",
    )
    for line in (
        f"{card.place}: {card.form}, sha256 {card.sha256[:8]}",
        f"on the labelled rows of {' '.join(data)}",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if card.labels.describe:
        console.print(card.labels.describe, highlight=False)
    console.print(table)
    if expected is None and examined.problem is None:
        console.print("It has no recorded score. If you know one: --expect SCORE.", style="dim")


def train_teacher(
    recipe: Path,
    overrides: Sequence[str] = (),
    *,
    out: Path | None = None,
    to: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Train the one task of a recipe on its labels alone and save the network as a teacher.

    A classifier is saved in timm's local-dir form, any other kind and a head of several layers, for which timm
    has no form, as a student folder. Both carry score.json: what it scores, and on what that was measured.

    Args:
        recipe: of one task that has no teacher.
        overrides: as in `load_recipe`.
        out: the run folder; default runs/NAME.
        to: the teacher's folder; default `teacher` in the run folder.
        resume, overwrite: as in `distill`.

    Returns:
        The teacher's folder.

    Raises:
        UserError: the recipe has several tasks or a teacher, or `to` is taken.
    """
    loaded = load_recipe(recipe, overrides)
    task = _only_task(loaded, recipe)
    run = RunFolder(out or Path("runs") / str(loaded.name))
    folder = to or run.path / "teacher"
    if folder.exists() and any(folder.iterdir()) and not (overwrite or resume):
        raise UserError(
            f"{folder} is not empty. Choose another folder with --to, or replace it with --overwrite."
        )
    evaluation = distill(loaded, out=run.path, resume=resume, overwrite=overwrite)
    if not PartialState().is_main_process:
        return folder
    _save(run, task, folder, evaluation, recipe)
    Console().print(f"teacher: {folder}", highlight=False, soft_wrap=True)
    return folder


def _only_task(recipe: Recipe, path: Path) -> str:
    if len(recipe.tasks) != 1 or any(section.teacher is not None for section in recipe.tasks.values()):
        raise RecipeError(
            f"Recipe {path}: a teacher is trained from one task without a teacher, found the tasks "
            f"{', '.join(recipe.tasks)}. To merge teachers: accelerate launch distill.py {path}"
        )
    return next(iter(recipe.tasks))


def _save(run: RunFolder, task: str, folder: Path, evaluation: Evaluation, recipe: Path) -> None:
    result = evaluation.tasks[task]
    student = load_student(run.student).student
    in_timms_form = result.kind == "classification" and (student.kinds[task].shape.depth or 1) == 1
    card = _card(task, result, folder, recipe, in_timms_form)
    if in_timms_form:
        save_timm(student, task, folder, card=card)
    else:
        save_student(student, folder, card=card)
    score = RecordedScore(
        task=task,
        kind=result.kind,
        metric=result.metric,
        score=round(result.student, 2),
        rows=result.rows,
        measured_on=f"the test rows of {recipe}",
        command=f"distill-mtl teacher train {recipe}",
    )
    write_score(folder, score)


def _card(task: str, result: TaskResult, folder: Path, recipe: Path, in_timms_form: bool) -> str:
    if in_timms_form:
        code = f'network = timm.create_model("local-dir:{folder}", pretrained=True)'
    else:
        code = f'network = distill_mtl.load_student("{folder}")'
    return (
        f"# Teacher of `{task}`\n\n"
        f"A {result.kind} network of one task, trained on labels alone: {result.metric} {result.student:.2f} on the "
        f"{result.rows:,} test rows of {recipe}.\n\n"
        f"```python\n{code}\n```\n\n"
        f"Trained by `distill-mtl teacher train {recipe}`; as a teacher: `teacher: {folder}`.\n"
    )
