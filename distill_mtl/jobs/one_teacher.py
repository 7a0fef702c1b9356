"""Look into a teacher, measure it, or train one.

Args:
    file (FILE): a folder, a .onnx, .xml, .tflite, .pte, .pt2 or .ts file, or hf_hub:owner/name; or its keys in a
        recipe: '{torchvision: resnet50.IMAGENET1K_V2}'.
    timm (NAME): a pretrained network of timm instead: resnet50.a1_in1k
    module (SPEC): your own network instead: package.module:callable
    args (YAML): keyword arguments for its callable: '{depth: 20}'
    weights (WEIGHTS): its state dict.
    trust: let it run code: .pt2, .ts and --module are programs.
    task (HEAD): head to use, if a student folder has several.
    overrides (--set KEY=VALUE, repeated): any other key that a recipe has for a teacher, as often as you like:
        --set input.size=224
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

from distill_mtl.checks.inspection import print_inspection
from distill_mtl.checks.teacher_check import ROWS_AT_A_TIME, TeacherCheck, expected_score, measure_teacher
from distill_mtl.data import Sources, open_sources
from distill_mtl.data.batch import Batch
from distill_mtl.display import mark, messages, output
from distill_mtl.errors import RecipeError, TeacherError, UserError
from distill_mtl.evaluation import Evaluation, TaskResult
from distill_mtl.jobs.arguments import as_classes, as_data, as_recipe, recipe_place, refuse_below
from distill_mtl.jobs.distill import distill
from distill_mtl.networks.weights import RecordedScore, write_score
from distill_mtl.recipe import Recipe
from distill_mtl.recipe.command_line import network_name, read_teacher, task_name, teacher_values
from distill_mtl.recipe.load import absolute_teacher
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.students.student_folder import load_student, save_student
from distill_mtl.students.timm_form import save_timm
from distill_mtl.tasks.base import TaskKind
from distill_mtl.teachers.load_teacher import kind_of, load_teacher
from distill_mtl.teachers.teacher import Teacher
from distill_mtl.training.run_folder import RunFolder


def inspect_teacher(
    file: str | None = None,
    *,
    timm: str | None = None,
    module: str | None = None,
    args: str | Mapping[str, Any] | None = None,
    weights: str | None = None,
    trust: bool = False,
    task: str | None = None,
    overrides: Sequence[str] = (),
    all: bool = False,
    console: Console | None = None,
) -> None:
    """Print a trained network's input, output and layers for hints.

    Load a trained network and print its input and output, each with where that is known from; its sha256; the layers
    that hints can use; and the recipe lines that name it.

    Args:
        all: every layer, not only one of each shape.
        console: where it is printed; default standard output. For the others see
            `distill_mtl.jobs.one_teacher`.

    Raises:
        UserError: it cannot be loaded, or no network is named.
    """
    section, name = _named_teacher(file, timm, module, args, weights, trust, task, overrides)
    print_inspection(section, name, console or output(), everything=all)


def check_teacher(
    file: str | None = None,
    *,
    data: Sequence[str],
    timm: str | None = None,
    module: str | None = None,
    args: str | Mapping[str, Any] | None = None,
    weights: str | None = None,
    trust: bool = False,
    task: str | None = None,
    overrides: Sequence[str] = (),
    member: str | None = None,
    kind: str | None = None,
    classes: int | str | Sequence[str] | None = None,
    expect: float | str | None = None,
    limit: int | None = None,
    console: Console | None = None,
) -> None:
    """Measure a trained network on labelled shards.

    Measure a trained network on all labelled rows of some shards, as a run does before its first step. Exit status 2,
    with the likely cause, if it scores less than it should, or no more than a constant answer.

    Args:
        data (SHARDS ...): folders, files or patterns: 'shards/pets-*.tar'
        member: file ending of the label: cls, seg.png; default the kind's.
        kind: kind of the task; default the network's, or what its answer looks like.
        classes: number, or cat,dog,owl in the order of the label numbers; default its own.
        expect (SCORE): the score that it should reach; default the one that its folder records.
        limit (N): largest number of rows, spread evenly; default all.
        console: where the result is printed; default standard output. For the others see
            `distill_mtl.jobs.one_teacher`.

    Raises:
        TeacherError: it cannot be loaded, or falls short.
        ShardError: the shards cannot be read, or have no such labels.
        KeyboardInterrupt: interrupted before the teacher was measured on all rows.
    """
    refuse_below(1, limit=limit)
    expected = [] if expect is None else [f"expect={expect}"]
    section, name = _named_teacher(file, timm, module, args, weights, trust, task, [*overrides, *expected])
    teacher = load_teacher(absolute_teacher(section), task=name, kind=kind, classes=as_classes(classes))
    measured_as = kind_of(teacher)
    size = teacher.card.inputs.size
    sources = open_sources(as_data({name: data}, member), {name: measured_as}, size, every_set=False)
    examined = _examine(teacher, measured_as, name, sources, section, limit)
    _show(console or output(), examined, measured_as, data)
    if examined.problem is not None:
        raise TeacherError(examined.problem)


def _named_teacher(
    file: str | None,
    timm: str | None,
    module: str | None,
    args: str | Mapping[str, Any] | None,
    weights: str | None,
    trust: bool,
    task: str | None,
    overrides: Sequence[str],
) -> tuple[TeacherSection, str]:
    """The section of a recipe that would name it so, and a name for its task."""
    said = {
        "timm": timm,
        "module": module,
        "weights": weights,
        "task": task,
        "trust": trust or None,
        "args": None if isinstance(args, str) else args,
    }
    values = teacher_values(file) if file is not None else {}
    values |= {key: value for key, value in said.items() if value is not None}
    name = task or task_name(network_name(values))
    in_yaml = [f"args={args}"] if isinstance(args, str) else []
    return read_teacher(values, [*in_yaml, *overrides], name), name


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
    console = messages()
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


def _show(console: Console, examined: TeacherCheck, kind: TaskKind, data: Sequence[str]) -> None:
    card = examined.teacher.card
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
        mark(examined.passed),
    )
    for line in (
        f"{card.place}: {card.form}, sha256 {card.sha256[:8]}",
        f"on the labelled rows of {' '.join(data)}",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if card.labels.describe:
        console.print(card.labels.describe, highlight=False, markup=False)
    console.print(table)
    if examined.doubt is not None:
        console.print(examined.doubt, style="yellow", highlight=False, markup=False, soft_wrap=True)
    elif expected is None and examined.problem is None:
        console.print("It has no recorded score. If you know one: --expect SCORE.", style="dim")


def train_teacher(
    recipe: Recipe | Path | str,
    overrides: Sequence[str] = (),
    *,
    out: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    to: Path | None = None,
    console: Console | None = None,
) -> Path:
    """Train a network of one task, to be a teacher.

    Train the one task of a recipe on its labels only, with the machinery of a run, and save the network as a
    teacher: timm's local-dir form for a classifier, a student folder for any other kind, and for a head of several
    layers, which timm has no form for. Each has its score in score.json.

    Args:
        recipe: the recipe, a YAML file.
        overrides (--set KEY=VALUE, repeated): override any key, as often as you like:
            --set tasks.breed.temperature=2
        out (DIR): run folder; default runs/NAME.
        resume: continue from the run folder's last checkpoint.
        overwrite: delete the run that is in the run folder.
        to (FOLDER): where the teacher goes; default `teacher` in its run folder.
        console: where progress is shown; default standard output of the first process.

    Returns:
        The teacher's folder.

    Raises:
        UserError: the recipe has several tasks or a teacher, or `to` is taken.
        KeyboardInterrupt: interrupted. A teacher that had begun to train continues with --resume.
    """
    loaded, place = as_recipe(recipe, overrides), recipe_place(recipe)
    task = _only_task(loaded, place)
    run = RunFolder(out or Path("runs") / str(loaded.name))
    folder = to or run.path / "teacher"
    if folder.exists() and any(folder.iterdir()) and not (overwrite or resume):
        raise UserError(
            f"{folder} is not empty. Choose another folder with --to, or replace it with --overwrite."
        )
    evaluation = distill(loaded, out=run.path, resume=resume, overwrite=overwrite, console=console)
    if not PartialState().is_main_process:
        return folder
    _save(run, task, folder, evaluation, place)
    (console or output()).print(f"teacher: {folder}", highlight=False, soft_wrap=True)
    return folder


def _only_task(recipe: Recipe, path: str) -> str:
    if len(recipe.tasks) != 1 or any(section.teacher is not None for section in recipe.tasks.values()):
        raise RecipeError(
            f"Recipe {path}: a teacher is trained from one task without a teacher, found the tasks "
            f"{', '.join(recipe.tasks)}. To merge teachers: accelerate launch distill.py {path}"
        )
    return next(iter(recipe.tasks))


def _save(run: RunFolder, task: str, folder: Path, evaluation: Evaluation, recipe: str) -> None:
    result = evaluation.tasks[task]
    student = load_student(run.student).student
    in_timms_form = result.kind == "classification" and (student.kinds[task].shape.depth or 1) == 1
    card = _card(task, result, folder, recipe, in_timms_form)
    if in_timms_form:
        save_timm(student, task, folder, card=card)
    else:
        save_student(student, folder, card=card)
    if result.unmeasured:
        return
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


def _card(task: str, result: TaskResult, folder: Path, recipe: str, in_timms_form: bool) -> str:
    if in_timms_form:
        code = f'network = timm.create_model("local-dir:{folder}", pretrained=True)'
    else:
        code = f'network = distill_mtl.load_student("{folder}")'
    score = f"{result.metric} {result.student:.2f}"
    if result.unmeasured:
        score = f"{result.metric} not measured, for lack of labels of more classes,"
    return (
        f"# Teacher of `{task}`\n\n"
        f"A {result.kind} network of one task, trained on labels only: {score} on the "
        f"{result.rows:,} test rows of {recipe}.\n\n"
        f"```python\n{code}\n```\n\n"
        f"Trained by `distill-mtl teacher train {recipe}`; as a teacher: `teacher: {folder}`.\n"
    )
