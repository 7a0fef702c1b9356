"""Sections of how good the student is: tasks, deltas, classes, other domains, baselines."""

from collections.abc import Mapping, Sequence

from distill_mtl.evaluation.cross_domain import notable
from distill_mtl.evaluation.result import CalibrationError, Evaluation, TaskResult
from distill_mtl.report import words
from distill_mtl.report.blocks import Block, Cell, Chart, Charts, Folded, Section, Table, Text
from distill_mtl.report.charts import Lead, dumbbells, forest
from distill_mtl.report.headline import by_interval, judged, outcome

_WORST = 10
_SIGNS: dict[str, str] = {
    "good": "✓ non-inferior",
    "bad": "✗ inferior",
    "unsure": "? undecided",
    "": words.NONE,
}
_POINT_SIGNS = {"good": "✓ kept", "bad": "✗ lost", "unsure": words.NONE, "": words.NONE}


def tasks_section(results: Evaluation) -> Section:
    """The table that everything else explains."""
    scores = judged(results)
    columns = ["task", "teacher", "student", "delta", "verdict", "95 % interval", "agree"]
    with_ece = any(score.ece is not None for score in results.tasks.values())
    if not scores:
        columns = ["task", "student"]
    columns += ["ECE", "rows"] if with_ece else ["rows"]
    rows = []
    for task, score in results.tasks.items():
        cells = _cells(task, score, results)
        rows.append([cells[column] for column in columns])
    blocks: list[Block] = [
        Table("Tasks", columns, rows, left=frozenset({"task", "verdict"})),
        Text(_how_to_read(results, with_ece=with_ece), quiet=True),
    ]
    if tested := _mcnemar(results):
        blocks.append(Text(tested, quiet=True))
    return Section("tasks", "Tasks" if not scores else "Task by task", blocks)


def verdict_sign(score: TaskResult, results: Evaluation) -> Cell:
    """The verdict of a task, in words, a sign and a colour."""
    interval = by_interval(results)
    tone = outcome(score, interval=interval)
    return Cell((_SIGNS if interval else _POINT_SIGNS)[tone], tone)


def leads_by_unit(tasks: Mapping[str, TaskResult]) -> dict[str, list[str]]:
    """Unit -> the tasks that share its axis: points or degrees together, every other unit alone."""
    units: dict[str, list[str]] = {}
    for task, score in tasks.items():
        unit = "points" if score.in_points else f"{score.metric} of {task}"
        units.setdefault(unit, []).append(task)
    return units


def deltas_section(results: Evaluation) -> Section | None:
    """Forest plots."""
    scores = judged(results)
    if not scores:
        return None
    charts = []
    for number, (unit, tasks) in enumerate(leads_by_unit(scores).items()):
        leads = [_lead(task, scores[task]) for task in tasks]
        said = ", ".join(f"{lead.name} {lead.words}" for lead in leads)
        charts.append(
            Chart(forest(f"forest-{number}", f"Deltas of student and teacher in {unit}: {said}", leads, unit))
        )
    note = Text(
        "Point: what the student gains (right) or loses (left) against its teacher. Line: 95 % interval. Dashed: "
        "the margin; the tinted side of it is more than the recipe allows to lose. Non-inferior: the whole "
        "line lies right of the margin.",
        quiet=True,
    )
    return Section("deltas", "What each task won or lost", [Charts(charts, wide=True), note])


def classes_section(results: Evaluation) -> Section | None:
    """Per-class deltas, worst first."""
    charts, folded = [], []
    for number, (task, score) in enumerate(results.tasks.items()):
        rows = [
            (entry.name, entry.teacher, entry.student, entry.delta)
            for entry in score.classes or []
            if entry.teacher is not None and entry.student is not None and entry.delta is not None
        ]
        if not rows:
            continue
        rows.sort(key=lambda row: row[3])
        shown = [(name, teacher, student) for name, teacher, student, _ in rows[:_WORST]]
        loses = rows[0][3] < 0
        worst = f"Worst: {rows[0][0]} {words.difference(rows[0][3], score)}" if loses else "No class lost"
        few = f"; the worst {_WORST} of {len(rows)} classes" if len(rows) > _WORST else ""
        charts.append(
            Chart(
                dumbbells(
                    f"classes-{number}", f"Classes of {task}, worst first. {worst}", shown, _class_unit(score)
                ),
                task,
                f"{worst}{few}.",
            )
        )
        cells = [
            [
                Cell(name),
                Cell(words.score(teacher, score)),
                Cell(words.score(student, score)),
                Cell(words.difference(delta, score)),
            ]
            for name, teacher, student, delta in rows
        ]
        folded.append(
            Folded(
                f"All {len(rows)} classes of {task}",
                [
                    Table(
                        f"Classes of {task}",
                        ["class", "teacher", "student", "delta"],
                        cells,
                        frozenset({"class"}),
                    )
                ],
            )
        )
    if not charts:
        return None
    return Section("classes", "Classes, worst first", [Charts(charts), *folded])


def cross_domain_section(
    results: Evaluation, own_sources: Mapping[str, set[str]], order: Sequence[str]
) -> Section | None:
    """Agreement of every head with its teacher on every data set's images.

    Args:
        results: of the run.
        own_sources: task -> the data sets with its labels.
        order: of all data sets.
    """
    looked_at = {source for found in results.cross_domain.values() for source in found}
    sources = [*(source for source in order if source in looked_at), *sorted(looked_at - set(order))]
    if not sources:
        return None
    rows = []
    for task, found in results.cross_domain.items():
        own = results.tasks[task].agreement if task in results.tasks else None
        cells = [Cell(task), Cell(words.percent(own), "strong")]
        for source in sources:
            if source in found:
                share = found[source].agreement
                lost = notable(own, share, found[source].rows)
                cells.append(Cell(words.percent(share), heat=share if lost else None))
            else:
                cells.append(Cell("own" if source in own_sources.get(task, set()) else words.NONE, "quiet"))
        rows.append(cells)
    return Section(
        "domains",
        "On other data sets' images",
        [
            Table(
                "Agreement by task and data set", ["task", "own rows", *sources], rows, frozenset({"task"})
            ),
            Text(
                "How often student and teacher decide alike. A head that agrees on its own rows and not on "
                "another data set's has learned to tell the data sets apart. Tinted is what is lower than on the own "
                "rows by more than 10 points and more than chance explains.",
                quiet=True,
            ),
        ],
    )


def baselines_section(results: Evaluation) -> Section | None:
    """Student and baselines, each against the teacher."""
    if not results.baselines:
        return None
    rows = []
    for task, score in results.tasks.items():
        rows.append(
            [
                Cell(task),
                Cell("this student", "student"),
                Cell(words.score(score.student, score)),
                Cell(words.difference(score.delta, score)),
                Cell(words.interval(score.ci95, score)),
            ]
        )
        for name, baseline in results.baselines.items():
            if (found := baseline.tasks.get(task)) is not None:
                rows.append(
                    [
                        Cell(""),
                        Cell(f"{name} ({baseline.kind.replace('_', ' ')})"),
                        Cell(words.score(found.score, score)),
                        Cell(words.difference(found.delta, score)),
                        Cell(words.interval(found.ci95, score)),
                    ]
                )
    return Section(
        "baselines",
        "Beside baselines",
        [
            Table(
                "Baselines",
                ["task", "network", "score", "to teacher", "95 % interval"],
                rows,
                frozenset({"task", "network"}),
            )
        ],
    )


def _lead(task: str, score: TaskResult) -> Lead:
    assert score.delta is not None
    return Lead(task, score.delta, score.ci95, score.margin, words.difference(score.delta, score))


def _cells(task: str, score: TaskResult, results: Evaluation) -> dict[str, Cell]:
    sign = verdict_sign(score, results)
    ece = score.ece
    return {
        "task": Cell(task, aside=words.metric(score)),
        "rows": Cell(f"{score.rows:,}"),
        "teacher": Cell(words.score(score.teacher, score)),
        "student": Cell(words.score(score.student, score), "strong"),
        "delta": Cell(words.difference(score.delta, score), sign.tone),
        "95 % interval": Cell(words.interval(score.ci95, score), "quiet"),
        "verdict": sign,
        "agree": Cell(words.percent(score.agreement)),
        "ECE": Cell(words.NONE if ece is None else _calibration(ece)),
    }


def _calibration(ece: CalibrationError) -> str:
    """Of teacher and student."""
    return f"{ece.student:.1f}" if ece.teacher is None else f"{ece.teacher:.1f} → {ece.student:.1f}"


def _how_to_read(results: Evaluation, *, with_ece: bool) -> str:
    scores = judged(results)
    if not scores:
        return f"Measured on {results.split} rows."
    margins = {words.margin(score) for score in scores.values()}
    if len(margins) == 1:
        margin = f"The margin is {margins.pop()} in every task."
    else:
        margin = f"Margins: {', '.join(f'{task} {words.margin(score)}' for task, score in scores.items())}."
    rule = "" if by_interval(results) else " This recipe judges the difference alone, not its interval."
    ece = " ECE: expected calibration error in points, teacher → student." if with_ece else ""
    return (
        f"Measured on each task's own {results.split} rows. Delta is positive where the student is better, "
        f"whatever the metric; the interval is a paired bootstrap. {margin}{rule}{ece}"
    )


def _mcnemar(results: Evaluation) -> str:
    found = [
        f"{task}: {score.mcnemar.student_only:,} rows right by the student alone, {score.mcnemar.teacher_only:,} by "
        f"the teacher alone, p = {score.mcnemar.p:.2g}{', by groups' if score.mcnemar.test == 'clustered' else ''}"
        for task, score in results.tasks.items()
        if score.mcnemar is not None
    ]
    return f"McNemar's test. {'; '.join(found)}." if found else ""


def _class_unit(score: TaskResult) -> str:
    return "points" if score.in_points else score.metric
