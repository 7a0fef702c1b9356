"""Every teacher is measured on its own labelled rows before it teaches; one that falls short gets a diagnosis.

One that does not fall short, but would do better in another way, or has nothing that says what it should score and is
far from perfect, is doubted. `before_training` checks all teachers of a run; `teacher check` measures one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from distill_mtl.checks.better_reading import BetterReading, find_better_reading, least_gain
from distill_mtl.checks.diagnoses import (
    BATCH_DEPENDENT,
    NO_STATISTICS,
    Diagnosis,
    depends_on_batch,
    diagnose,
    lacks_statistics,
    not_finite,
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
from distill_mtl.data.batch import Batch
from distill_mtl.display import mark
from distill_mtl.errors import TeacherError
from distill_mtl.evaluation.class_rows import ClassRows
from distill_mtl.evaluation.row_statistics import within_known
from distill_mtl.recipe import Recipe
from distill_mtl.recipe.schema import TeacherSection, task_of, teacher_place
from distill_mtl.splits import Split
from distill_mtl.tasks.base import TaskKind
from distill_mtl.tasks.class_view import class_view
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
        doubt: what should be looked at, though it may be right; None if nothing should.
        precision: of its targets.
        split: the rows that it was measured on.
        learned: its score on rows that it may have been trained on, where it was measured on others.
    """

    teacher: Teacher
    measured: MeasuredScore | None
    expected: ExpectedScore | None
    problem: str | None
    doubt: str | None = None
    precision: str = "fp32"
    split: Split = "validation"
    learned: MeasuredScore | None = None

    @property
    def passed(self) -> bool | None:
        """None where it was not measured, or is doubted."""
        if self.problem is not None:
            return False
        return None if self.measured is None or self.doubt is not None else True


def check_teachers(
    recipe: Recipe,
    teachers: Mapping[str, Teacher],
    kinds: Mapping[str, TaskKind],
    sources: Sources,
    device: torch.device,
) -> dict[str, TeacherCheck]:
    """Measure each teacher on validation rows through the run's own data path, and diagnose those that fall short.

    One of several teachers of a task is measured on the classes that it knows, and the rows that tell of them.
    A task whose labelled rows are all for testing has its teacher measured on those. So has one whose validation
    rows were cut from the training shards: a teacher scores 100 on what it learned.
    """
    examined: dict[str, TeacherCheck] = {}
    for name, section in recipe.networks.items():
        task, teacher = task_of(name), teachers[name]
        telling, kind = sources.telling(task, teacher.known), kinds[task]
        if task != name:  # one of several: on its own classes, as if there were no others
            view = class_view(kind, teacher.known)
            chosen, teacher, kind = ClassRows(task, view, telling), teacher.alone(), view.kind
        else:
            chosen = ClassRows(task, class_view(kind, None), telling)
        rows = partial(_rows, chosen, sources, device)
        split = _split(task, sources, telling)
        expected = expected_score(section, teacher, kind)
        found = measure_teacher(teacher.to(device), kind, task, rows(split), expected, limit=LIMIT)
        found = replace(found, split=split)
        if split == "test" and sources.count(task, "validation", telling):
            found = replace(found, learned=_score(teacher, kind, task, rows("validation"), LIMIT))
        if found.problem is None:
            known = _with_known_labels(teacher, kind, task, rows(split))
            score = found.measured.score if found.measured is not None else None
            found = replace(found, precision=choose_precision(section, teacher, kind, task, known, score))
        examined[name] = found
    return examined


def _rows(chosen: ClassRows, sources: Sources, device: torch.device, split: Split) -> LabelledRows:
    def rows(limit: int | None) -> Iterator[Batch]:
        read = sources.labelled(chosen.task, split, ROWS_AT_A_TIME, limit=limit, sources=chosen.sources)
        return chosen.of((batch.to(device) for batch in read), chosen.task)

    return rows


def _split(task: str, sources: Sources, telling: Sequence[str]) -> Split:
    """Validation rows, unless there are none or the teacher may know them, and not the test rows."""
    seen = sources.hashed(task, "validation", telling) and not sources.hashed(task, "test", telling)
    usable = sources.count(task, "validation", telling) and not (
        seen and sources.count(task, "test", telling)
    )
    return "validation" if usable else "test"


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
    measured = _score(teacher, kind, task, rows, limit)
    if measured is None:
        return TeacherCheck(teacher, None, expected, None)
    rows = _with_known_labels(teacher, kind, task, rows)
    file, doubt = teacher.card.file, None
    problem = _find_problem(teacher, kind, task, rows, measured, expected)
    # What a person has stated is not doubted.
    if problem is None and (expected is None or not expected.stated):
        better = find_better_reading(teacher, kind, task, rows, measured)
        if better is not None and expected is None and _is_far_below(better, kind, measured):
            problem = _as_better(better, kind, measured)
        else:
            doubt = _find_doubt(teacher, kind, measured, expected, better)
    return TeacherCheck(
        teacher,
        measured,
        expected,
        f"{file} {problem}" if problem else None,
        f"{file} {doubt}" if doubt else None,
    )


def _score(
    teacher: Teacher, kind: TaskKind, task: str, rows: LabelledRows, limit: int | None
) -> MeasuredScore | None:
    known = _with_known_labels(teacher, kind, task, rows)
    return measure_score(lambda images: teacher(images).logits, kind, task, known(limit))


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
    on = _on(kind, measured)
    wrong = score_problem(measured, expected, kind)
    if measured.broken:
        cause = not_finite(teacher)
        return f"{wrong}. Likely cause: {cause.cause}. {cause.remedy}"
    if depends_on_batch(teacher, next(iter(rows(_ROWS_OF_BATCH_TEST))).images):
        return f"scores {measured.score:.2f} {on}, but {BATCH_DEPENDENT.cause} {BATCH_DEPENDENT.remedy}"
    if wrong is None:
        return None
    goal = expected.score if expected is not None else None
    diagnosis = diagnose(teacher, kind, task, list(rows(LIMIT)), measured, goal)
    return f"{wrong} {on}. {_cause(diagnosis)} {_how_to_accept(measured, kind)}"


def _is_far_below(better: BetterReading, kind: TaskKind, measured: MeasuredScore) -> bool:
    """Whether the better reading makes good a third of what the teacher lacks."""
    return better.gain > max(least_gain(kind, measured), abs(kind.perfect - measured.score) / 3)


def _as_better(better: BetterReading, kind: TaskKind, measured: MeasuredScore) -> str:
    found = Diagnosis(better.describe(kind), better.candidate.remedy)
    return (
        f"scores {measured.score:.2f} {_on(kind, measured)}, and is better with another reading. {_cause(found)} "
        f"{_how_to_accept(measured, kind)}"
    )


def _find_doubt(
    teacher: Teacher,
    kind: TaskKind,
    measured: MeasuredScore,
    expected: ExpectedScore | None,
    better: BetterReading | None,
) -> str | None:
    """What speaks against a teacher that passed, as what follows its file's name."""
    if better is not None:
        return _as_better(better, kind, measured)
    if expected is not None:
        return None
    scores = f"scores {measured.score:.2f} {_on(kind, measured)}"
    if lacks_statistics(teacher):
        return f"{scores}, but {NO_STATISTICS.cause}. {NO_STATISTICS.remedy} {_how_to_accept(measured, kind)}"
    half_way = (kind.perfect + measured.constant) / 2
    if kind.in_points and abs(kind.perfect - measured.score) > abs(kind.perfect - half_way):
        return (
            f"{scores}: nearer to a constant answer ({measured.constant:.2f}) than to a perfect one, and it has no "
            f"recorded score. {_NO_CAUSE} {_how_to_accept(measured, kind)}"
        )
    return None


def _on(kind: TaskKind, measured: MeasuredScore) -> str:
    return f"in {kind.metric} on {measured.rows:,} labelled rows"


def _cause(diagnosis: Diagnosis | None) -> str:
    return f"Likely cause: {diagnosis.cause}. {diagnosis.remedy}" if diagnosis is not None else _NO_CAUSE


def _how_to_accept(measured: MeasuredScore, kind: TaskKind) -> str:
    return f"If this is the score that you expect, record it with `expect: {as_expected(measured, kind)}`."


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
    rows = [_cells(name, result, kinds[task_of(name)].metric) for name, result in examined.items()]
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
    for note in _notes(examined):
        console.print(note, style="dim", highlight=False, markup=False, soft_wrap=True)
    for task, result in examined.items():
        if result.doubt is not None:
            doubt = f"{teacher_place(task)}: {result.doubt}"
            console.print(doubt, style="yellow", highlight=False, markup=False, soft_wrap=True)
    for task, result in examined.items():
        if result.measured is None or result.expected is not None or result.problem or result.doubt:
            continue
        kind = kinds[task_of(task)]
        if kind.teacher_labels:
            console.print(
                f"{task}: its teacher's own answers are the labels, so that it scores "
                f"{kind.perfect:g}. A constant answer scores {result.measured.constant:.2f}.",
                style="dim",
                highlight=False,
                soft_wrap=True,
            )
        else:
            console.print(
                f"{task}: {result.teacher.card.name} has no recorded score. It measures "
                f"{result.measured.score:.2f} here (a constant answer: {result.measured.constant:.2f}): is that what "
                f"you expect? Record it with `expect: {as_expected(result.measured, kind)}`.",
                style="dim",
                highlight=False,
                soft_wrap=True,
            )


def _notes(examined: Mapping[str, TeacherCheck]) -> Iterator[str]:
    """Which teachers were measured on test rows, and why."""
    tested = [task for task, result in examined.items() if result.split == "test" and result.learned is None]
    if tested:
        yield f"{', '.join(tested)}: on test rows, the only ones with labels"
    for task, result in examined.items():
        if result.learned is not None:
            yield (
                f"{task}: on test rows, because the validation rows are cut from the training shards, which the "
                f"teacher may have learned (there it scores {result.learned.score:.2f})"
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
        mark(result.passed),
        result.precision,
    )


def refuse_bad_teachers(examined: Mapping[str, TeacherCheck]) -> None:
    """Raise one TeacherError that names every teacher with a problem."""
    problems = [
        f"{teacher_place(name)}: {result.problem}" for name, result in examined.items() if result.problem
    ]
    if problems:
        raise TeacherError("\n".join(problems))


def expected_score(section: TeacherSection | None, teacher: Teacher, kind: TaskKind) -> ExpectedScore | None:
    """The recipe's `expect`, else what the teacher's folder records for the same metric; None without either."""
    if section is not None and section.expect is not None:
        return ExpectedScore(section.expect)
    recorded = teacher.card.score
    if recorded is not None and recorded.metric == kind.metric:
        return ExpectedScore(recorded.score, recorded.rows, stated=False)
    return None
