"""How good the student is: tasks, changes per task, other data sets, baselines."""

from collections.abc import Iterator, Mapping, Sequence

from distill_mtl.errors import a_few
from distill_mtl.evaluation.cross_domain import notable
from distill_mtl.evaluation.result import CalibrationError, Evaluation, TaskResult
from distill_mtl.evaluation.task_comparison import worst_classes
from distill_mtl.report import words
from distill_mtl.report.blocks import Block, Cell, Chart, Charts, Section, Table, Text, Tone
from distill_mtl.report.charts import ForestLine, forest
from distill_mtl.report.headline import tone_of
from distill_mtl.report.run_record import RunRecord
from distill_mtl.report.sections import section

INTERVAL = "95 % interval"
COLUMNS = ("task", "metric", "rows", "teacher", "student", "delta", INTERVAL, "agree", "")
"""Of the short table; the last one has the verdict's mark."""
_ALONE = ("task", "metric", "rows", "student")
_MARKS = {"non-inferior": "✓", "inferior": "✗", "undecided": "?", None: words.NONE}
_SIGNS: dict[Tone, str] = {
    "good": "✓ non-inferior",
    "bad": "✗ inferior",
    "unsure": "? undecided",
    "": words.NONE,
}
_POINT_SIGNS: dict[Tone, str] = {"good": "✓ kept", "bad": "✗ lost", "unsure": words.NONE, "": words.NONE}
_LONGEST_NAME = 16


@section(10)
def tasks(run: RunRecord) -> Section | None:
    """The main table."""
    results = run.results
    if results is None:
        return None
    columns = ["task", "teacher", "student", "delta", "verdict", INTERVAL, "agree"]
    with_ece = any(result.ece is not None for result in results.tasks.values())
    if not results.compared:
        columns = ["task", "student"]
    columns += ["ECE", "rows"] if with_ece else ["rows"]
    rows = []
    for task, result in results.tasks.items():
        cells = _cells(task, result, results)
        rows.append([cells[column] for column in columns])
    blocks: list[Block] = [
        Table("Tasks", columns, rows, left=frozenset({"task", "verdict"})),
        Text(_how_to_read(results, with_ece=with_ece), quiet=True),
    ]
    blocks += [Text(note) for note in unmeasured_notes(results)]
    if said := [
        [Cell(name), Cell(result.against)] for name, result in results.tasks.items() if result.against
    ]:
        blocks.append(
            Table("Teachers of one task", ["task", "against"], said, frozenset({"task", "against"}))
        )
    if tested := _mcnemar(results):
        blocks.append(Text(tested, quiet=True))
    return Section(
        "tasks",
        "Results per task" if results.compared else "Tasks",
        blocks,
        summary=[short_table(results)],
        notes=_notes(results),
    )


def short_table(
    results: Evaluation, columns: Sequence[str] | None = None, only: Sequence[str] | None = None
) -> Table:
    """A row for each task and under it one for each baseline, as console, model card and hub card show them.

    Args:
        results: of a comparison.
        columns: of `COLUMNS`; None: all, or without a teacher those of the score.
        only: the tasks; None: all.
    """
    columns = columns or (COLUMNS if results.compared else _ALONE)
    lines = [
        line
        for task in results.tasks
        if only is None or task in only
        for line in (_short_cells(task, results), *_baseline_cells(task, results))
    ]
    return Table(
        "Tasks",
        columns,
        [[line.get(column, Cell("")) for column in columns] for line in lines],
        left=frozenset({"task", "metric"}),
        narrow={INTERVAL: "fold", "metric": "shorten"},
    )


def verdict_sign(result: TaskResult, results: Evaluation) -> Cell:
    """The verdict of a task as a text, a sign and a colour."""
    tone = tone_of(result)
    return Cell((_SIGNS if results.acceptance.rule == "interval" else _POINT_SIGNS)[tone], tone)


@section(20)
def changes(run: RunRecord) -> Section | None:
    """Forest plots."""
    if run.results is None or not run.results.compared:
        return None
    compared = run.results.compared
    charts = []
    for number, (unit, names) in enumerate(by_unit(compared).items()):
        lines = [_forest_line(task, compared[task]) for task in names]
        said = ", ".join(f"{line.name} {line.words}" for line in lines)
        title = f"Deltas of student and teacher in {unit}: {said}"
        charts.append(Chart(forest(f"forest-{number}", title, lines, unit)))
    note = Text(
        "Point: what the student gains (right) or loses (left) against its teacher. Line: 95 % interval. Dashed: "
        "the margin; in the tinted part more is lost than the recipe allows. Non-inferior: the whole line lies "
        "right of the margin.",
        quiet=True,
    )
    return Section("deltas", "Change per task (student − teacher)", [Charts(charts, wide=True), note])


def by_unit(results: Mapping[str, TaskResult]) -> dict[str, list[str]]:
    """Unit -> the tasks that share its axis: points or degrees together, every other unit alone."""
    units: dict[str, list[str]] = {}
    for task, result in results.items():
        unit = "points" if result.in_points else f"{result.metric} of {task}"
        units.setdefault(unit, []).append(task)
    return units


@section(50)
def cross_domain(run: RunRecord) -> Section | None:
    """Agreement of every head with its teacher on every data set's images."""
    if run.results is None:
        return None
    found = run.results.cross_domain
    data: dict[str, dict[str, object]] = run.recipe.get("data") or {}
    looked_at = {source for sources in found.values() for source in sources}
    sources = [*(source for source in data if source in looked_at), *sorted(looked_at - set(data))]
    if not sources:
        return None
    rows = []
    for task, agreements in found.items():
        own = run.results.tasks[task].agreement if task in run.results.tasks else None
        cells = [Cell(task), Cell(words.percent(own), "strong")]
        for source in sources:
            if source in agreements:
                share = agreements[source].agreement
                lost = notable(own, share, agreements[source].rows)
                cells.append(Cell(words.percent(share), heat=share if lost else None))
            else:
                labels = data.get(source, {}).get("labels")
                own_data = isinstance(labels, dict) and task in labels
                cells.append(Cell("own" if own_data else words.NONE, "quiet"))
        rows.append(cells)
    table = Table("Agreement by task and data set", ["task", "own rows", *sources], rows, frozenset({"task"}))
    note = Text(
        "How often student and teacher decide alike. A head that agrees on its own rows and not on another data set's "
        "has learned to tell the data sets apart. A cell is tinted where agreement is more than 10 points below "
        "that on the task's own rows, and by more than chance explains.",
        quiet=True,
    )
    return Section(
        "domains", "Agreement on other data sets", [table, note], notes=_cross_domain_notes(run.results)
    )


@section(60)
def baselines(run: RunRecord) -> Section | None:
    """Student and baselines, each against the teacher."""
    if run.results is None or not run.results.baselines:
        return None
    rows = []
    for task, result in run.results.tasks.items():
        rows.append(
            [
                Cell(task),
                Cell("this student", "student"),
                Cell(words.score(result.student, result)),
                Cell(words.difference(result.delta, result)),
                Cell(words.interval(result.ci95, result)),
            ]
        )
        for name, baseline in run.results.baselines.items():
            if (found := baseline.tasks.get(task)) is not None:
                rows.append(
                    [
                        Cell(""),
                        Cell(f"{name} ({baseline.kind.replace('_', ' ')})"),
                        Cell(words.score(found.score, result)),
                        Cell(words.difference(found.delta, result)),
                        Cell(words.interval(found.ci95, result)),
                    ]
                )
    columns = ["task", "network", "score", "delta to teacher", INTERVAL]
    table = Table("Baselines", columns, rows, frozenset({"task", "network"}))
    return Section("baselines", "Baselines", [table])


def _short_cells(task: str, results: Evaluation) -> dict[str, Cell]:
    """The student's row of the short table."""
    result = results.tasks[task]
    tone = tone_of(result) or "quiet"
    if tone == "good" and (result.delta or 0.0) < 0:
        tone = "kept"
    return {
        "task": Cell(task + (" *" if task in _possibly_seen(results) else ""), "strong"),
        "metric": Cell(words.metric(result), "quiet"),
        "rows": Cell(f"{result.rows:,}"),
        "teacher": Cell(words.score(result.teacher, result)),
        "student": Cell(words.score(result.student, result), "strong"),
        "delta": Cell(words.difference(result.delta, result), tone),
        INTERVAL: Cell(words.interval(result.ci95, result), "quiet"),
        "agree": Cell(words.percent(result.agreement)),
        "": Cell(_MARKS[result.verdict], tone),
    }


def _baseline_cells(task: str, results: Evaluation) -> list[dict[str, Cell]]:
    """Under a task, every baseline in the student's column."""
    result = results.tasks[task]
    return [
        {
            "task": Cell(
                f"· {words.brief(name if '/' in name else name.replace('_', ' '), _LONGEST_NAME)}", "quiet"
            ),
            "student": Cell(words.score(found.score, result), "quiet"),
            "delta": Cell(words.difference(found.delta, result), "quiet"),
            INTERVAL: Cell(words.interval(found.ci95, result), "quiet"),
        }
        for name, baseline in results.baselines.items()
        if (found := baseline.tasks.get(task)) is not None
    ]


def _notes(results: Evaluation) -> list[str]:
    """Lines under the verdict: classes that lose much, rows that were seen, intervals that lack."""
    notes = []
    named = [
        f"{task}/{each.name} {words.difference(each.delta, result)}"
        for task, result in results.compared.items()
        for each in worst_classes(result)
    ]
    if named:
        notes.append(f"worst: {', '.join(named)}")
    if _possibly_seen(results):
        notes.append(
            "* rows split off by a hash of their key: the teacher may have seen them in its training."
        )
    notes += list(unmeasured_notes(results))
    if said := [f"{name}: {result.against}" for name, result in results.tasks.items() if result.against]:
        notes.append(f"Teachers of one task: {'; '.join(said)}.")
    if any(result.ci95 is None for result in results.compared.values()):
        notes.append("No interval where all rows belong to one group: there is nothing to resample.")
    return notes


def unmeasured_notes(results: Evaluation) -> Iterator[str]:
    """A line for each task that its labels do not measure, or whose labels do not show all of its classes."""
    for task, result in results.tasks.items():
        if result.unmeasured:
            labelled = [each.name for each in result.classes or ()]
            only = f"of '{labelled[0]}' alone" if labelled else "of no class"
            yield (
                f"{task}: no {result.metric}, and no verdict. The {result.rows:,} rows have labels {only}, so a "
                "constant answer is as good as any."
            )
        elif result.unscored:
            yield (
                f"{task}: {len(result.unscored):,} of its classes without a label in these rows, and "
                f"without a score: {a_few(result.unscored)}."
            )


def _possibly_seen(results: Evaluation) -> set[str]:
    """Tasks with a teacher that may have been trained on these rows."""
    return set(results.hashed) & set(results.compared)


def _cross_domain_notes(results: Evaluation) -> list[str]:
    """A line for each source on which a student agrees with its teacher notably less than on its own rows."""
    notes = []
    for task, result in results.tasks.items():
        notes += [
            f"{task} agrees with its teacher on {words.percent(found.agreement)} of {found.rows:,} images of "
            f"'{source}', on its own rows on {words.percent(result.agreement)}: does the student answer differently "
            "there?"
            for source, found in results.cross_domain.get(task, {}).items()
            if notable(result.agreement, found.agreement, found.rows)
        ]
    return notes


def _forest_line(task: str, result: TaskResult) -> ForestLine:
    assert result.delta is not None
    return ForestLine(task, result.delta, result.ci95, result.margin, words.difference(result.delta, result))


def _cells(task: str, result: TaskResult, results: Evaluation) -> dict[str, Cell]:
    sign = verdict_sign(result, results)
    return {
        "task": Cell(task, aside=words.metric(result)),
        "rows": Cell(f"{result.rows:,}"),
        "teacher": Cell(words.score(result.teacher, result)),
        "student": Cell(words.score(result.student, result), "strong"),
        "delta": Cell(words.difference(result.delta, result), sign.tone),
        INTERVAL: Cell(words.interval(result.ci95, result), "quiet"),
        "verdict": sign,
        "agree": Cell(words.percent(result.agreement)),
        "ECE": Cell(words.NONE if result.ece is None else _calibration(result.ece)),
    }


def _calibration(ece: CalibrationError) -> str:
    """Of teacher and student."""
    return f"{ece.student:.1f}" if ece.teacher is None else f"{ece.teacher:.1f} → {ece.student:.1f}"


def _how_to_read(results: Evaluation, *, with_ece: bool) -> str:
    compared = results.compared
    if not compared:
        return f"Measured on {results.split} rows."
    margins = {words.margin(result) for result in compared.values()}
    if len(margins) == 1:
        margin = f"The margin is {margins.pop()} in every task."
    else:
        margin = (
            f"Margins: {', '.join(f'{task} {words.margin(result)}' for task, result in compared.items())}."
        )
    by_interval = results.acceptance.rule == "interval"
    rule = "" if by_interval else " This recipe judges by the difference, without its interval."
    ece = " ECE: expected calibration error in points, teacher → student." if with_ece else ""
    return (
        f"Measured on each task's own {results.split} rows. Delta is positive where the student is better, "
        f"whatever the metric; the interval is a paired bootstrap. {margin}{rule}{ece}"
    )


def _mcnemar(results: Evaluation) -> str:
    found = [
        f"{task}: {result.mcnemar.student_only:,} rows that only the student gets right, "
        f"{result.mcnemar.teacher_only:,} that only the teacher gets right, p = {result.mcnemar.p:.2g}"
        f"{', by groups' if result.mcnemar.test == 'clustered' else ''}"
        for task, result in results.tasks.items()
        if result.mcnemar is not None
    ]
    return f"McNemar's test. {'; '.join(found)}." if found else ""
