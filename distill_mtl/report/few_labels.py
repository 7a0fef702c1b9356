"""What few labels say, as blocks for console and page: the questions, and the verdict on their answers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from distill_mtl.errors import a_few
from distill_mtl.evaluation.few_labels import LabelledSet, LabelledSlice, LabelledTask, Questions
from distill_mtl.evaluation.few_labels.intervals import LEAST
from distill_mtl.evaluation.slices import FEWEST
from distill_mtl.report import words
from distill_mtl.report.blocks import Cell, Chart, Charts, Figure, Report, Section, Table, Text, Tone
from distill_mtl.report.charts import ForestLine, forest

_MARKS: dict[str, tuple[str, Tone]] = {
    "non-inferior": ("✓ non-inferior", "good"),
    "inferior": ("✗ inferior", "bad"),
    "undecided": ("? undecided", "unsure"),
}
_LEFT = frozenset({"task", "metric", "verdict"})
_INTERVAL = "95 % interval"
_HOW = (
    "The difference of student and teacher over all pictures, positive where the student is better. Of accuracy only "
    "pictures are asked on which the two differ, as the others cannot change the difference; of other scores all can "
    "be asked, those that differ more with a larger chance, which the estimate takes into account. While questions "
    "are open, the interval holds however often it is looked at (marked …); with the last answer it becomes that of a "
    "fixed number of labels. A student that loses more than the margin is accepted in at most 5 % of cases, whenever "
    "labelling stops. That is exact for accuracy until the last answer, and holds in the limit of many labels for the "
    "rest."
)

_OF_SLICES = (
    "The difference over the pictures of a slice, from the labels that fell into it. The interval holds after every "
    "label. p (Holm): of so large a difference between networks that are alike there, also after every label, where so "
    "many slices are looked at. !: a loss beyond the margin as measured and beyond chance that the mean hides."
)


def report_of_questions(
    questions: Questions,
    folder: Path,
    unasked: Mapping[str, str] = MappingProxyType({}),
    left_out: Mapping[str, str] = MappingProxyType({}),
) -> Report:
    """Of questions that were just written.

    Args:
        questions: all of them.
        folder: where they lie.
        unasked: tasks with a teacher that people are not asked about -> why.
        left_out: slices of the recipe that these pictures do not tell -> why.
    """
    rows, notes = [], _unasked(unasked)
    if questions.slices:
        said = [f"{name} ({words.counted(count, 'picture')})" for name, count in questions.slices.items()]
        notes.append(f"Slices: {a_few(said, 20)}.")
    notes += _left_out(left_out)
    for task, asked in questions.tasks.items():
        rows.append(
            [
                Cell(task, "strong"),
                Cell(asked.metric, "quiet"),
                Cell(words.percent(asked.agreement)),
                Cell(f"{asked.population:,}"),
                Cell(f"{len(asked.questions):,}", "strong"),
            ]
        )
        if not asked.questions:
            notes.append(f"{task}: so few pictures differ that no label is needed.")
    if questions.unread:
        notes.append(
            f"{words.counted(questions.unread, 'picture')} could not be read, and no number includes them."
        )
    notes += [
        f"{words.counted(questions.number, 'question')} about {words.counted(len(questions.keys), 'picture')}: "
        f"{folder / 'answers.csv'} (or label_studio/). Answer them from the top down, as many as you like; then: "
        f"distill-mtl evaluate {questions.run} --answers {folder / 'answers.csv'}"
    ]
    table = Table("Questions", ["task", "metric", "agree", "pictures to ask", "asked"], rows, _LEFT)
    section = Section("questions", "Questions", [table], summary=[table], notes=notes)
    title = f"Student against teachers on {words.counted(questions.pictures, 'picture')} without labels"
    return Report("", title, "", [], [], "", [section], title=title)


def report_of_labels(
    result: LabelledSet,
    gaps: Mapping[str, Sequence[str]],
    unasked: Mapping[str, str] = MappingProxyType({}),
    left_out: Mapping[str, str] = MappingProxyType({}),
) -> Report:
    """Of answers.

    Args:
        result: what they say.
        gaps: task -> rows without an answer before the last one that has one.
        unasked: tasks with a teacher that people are not asked about -> why.
        left_out: slices of the recipe that these pictures do not tell -> why.
    """
    columns = ["task", "metric", "agree", "labels", "delta", _INTERVAL, "margin", "verdict"]
    rows = [_cells(task, each) for task, each in result.tasks.items()]
    table = Table("Tasks", columns, rows, _LEFT, {"metric": "shorten"})
    notes = _unasked(unasked) + _left_out(left_out) + _notes(result, gaps)
    verdict = _verdict(result)
    sections = [
        Section(
            "tasks", "Results per task", [table, Text(_HOW, quiet=True), *map(Text, notes)], [table], notes
        ),
        *_changes(result),
        *_slices(result),
    ]
    pictures, labels = (
        words.counted(*each) for each in ((result.pictures, "picture"), (result.answered, "label"))
    )
    return Report(
        eyebrow=f"{Path(result.run).name}, few labels",
        headline=verdict.words.lstrip("✓✗? ").capitalize() + ".",
        tone=verdict.tone,
        advice=[],
        figures=[Figure(f"{result.pictures:,}", "pictures"), Figure(f"{result.answered:,}", "labels")],
        facts=f"{words.counted(len(result.tasks), 'task')} · {pictures} · {labels}",
        sections=sections,
        title=f"Student against teachers over {pictures}, from {labels}",
        verdict=verdict,
        hidden=_hidden(result),
    )


def _cells(task: str, result: LabelledTask) -> list[Cell]:
    sign, tone = _MARKS[result.verdict]
    open_ones = result.asked - result.answered - result.skipped
    return [
        Cell(task, "strong"),
        Cell(result.metric if result.higher_is_better else f"{result.metric} ↓", "quiet"),
        Cell(words.percent(result.agreement)),
        Cell(f"{result.answered:,} of {result.asked:,}" if open_ones else f"{result.answered:,}"),
        Cell(_signed(result.delta, result), tone),
        Cell(_interval(result), "quiet"),
        Cell(f"{result.margin:g}"),
        Cell(sign, tone),
    ]


def _notes(result: LabelledSet, gaps: Mapping[str, Sequence[str]]) -> list[str]:
    notes = []
    for task, each in result.tasks.items():
        open_ones = each.asked - each.answered - each.skipped
        if each.verdict == "undecided":
            notes.append(f"{task}: {_more(each, open_ones)}")
        if gaps.get(task):
            notes.append(
                f"{task}: {words.counted(len(gaps[task]), 'question')} before the last answer without one: "
                f"{a_few(gaps[task])}. If they were passed over because they are hard, the difference is not that of "
                "all pictures."
            )
        if each.skipped:
            notes.append(
                f"{task}: {words.counted(each.skipped, 'picture')} that nobody can answer, left out."
            )
        if each.unscored:
            notes.append(f"{task}: no label shows {a_few(each.unscored)}.")
    if result.unread:
        notes.append(
            f"{words.counted(result.unread, 'picture')} could not be read, and no number includes them."
        )
    return notes


def _unasked(tasks: Mapping[str, str]) -> list[str]:
    return [f"{task}: {why}, so it is neither asked nor judged here." for task, why in tasks.items()]


def _left_out(slices: Mapping[str, str]) -> list[str]:
    return [f"Slice {name} is left out. {why}" for name, why in slices.items()]


def _more(result: LabelledTask, open_ones: int) -> str:
    """How many more labels are expected to decide."""
    if result.delta is None or result.ci95 is None:
        return f"at least {min(LEAST, result.asked)} answers are needed, {result.answered} are there."
    more = result.labels_to_decide
    if more is None:
        return "delta lies at the margin, which no number of labels is known to decide."
    there = f"{words.counted(open_ones, 'question')} open" if open_ones else "all questions are answered"
    asks = " Ask for more with a larger --ask." if more > open_ones else ""
    return f"about {words.about(more)} more labels would decide; {there}.{asks}"


def _verdict(result: LabelledSet) -> Text:
    judged: list[tuple[str, LabelledTask, LabelledTask | LabelledSlice]] = [
        (task, each, each) for task, each in result.tasks.items()
    ]
    judged += [
        (f"{task} in {one.name}", each, one)
        for task, each in result.tasks.items()
        for one in each.slices
        if one.verdict is not None
    ]
    lost = [
        f"{name} {_signed(one.delta, task)} (allowed {_signed(-(one.margin or 0.0), task)})"
        for name, task, one in judged
        if one.verdict == "inferior"
    ]
    open_ones = [name for name, _, one in judged if one.verdict == "undecided"]
    labels = words.counted(result.answered, "label")
    if not lost and not open_ones:
        return Text(f"✓ accepted: no task lost more than its margin, from {labels}", tone="good")
    parts = [f"inferior: {', '.join(lost)}"] if lost else []
    parts += [f"undecided: {', '.join(open_ones)}"] if open_ones else []
    said = "✗ not accepted" if lost else "? not accepted yet"
    return Text(f"{said}: {'; '.join(parts)}", tone="bad" if lost else "unsure")


def _changes(result: LabelledSet) -> list[Section]:
    """Forest plots, one for each unit."""
    units: dict[str, list[str]] = {}
    for task, each in result.tasks.items():
        if each.delta is not None:
            units.setdefault("points" if each.in_points else f"{each.metric} of {task}", []).append(task)
    charts = []
    for number, (unit, names) in enumerate(units.items()):
        lines = [
            ForestLine(task, each.delta or 0.0, each.ci95, each.margin, _signed(each.delta, each))
            for task, each in ((task, result.tasks[task]) for task in names)
        ]
        said = ", ".join(f"{line.name} {line.words}" for line in lines)
        title = f"Deltas of student and teacher in {unit}: {said}"
        charts.append(Chart(forest(f"forest-{number}", title, lines, unit)))
    note = Text("Point: delta. Line: 95 % interval. Dashed: the margin.", quiet=True)
    return (
        [Section("changes", "Change per task (student − teacher)", [Charts(charts, wide=True), note])]
        if charts
        else []
    )


def _slices(result: LabelledSet) -> list[Section]:
    """A table of the slices, the one that lost most first; those of which too little is known in a sentence."""
    lines = [(task, each, one) for task, each in result.tasks.items() for one in each.slices]
    known = [line for line in lines if _is_known(line[2])]
    known.sort(key=lambda line: (line[2].delta is None, (line[2].delta or 0.0) / (line[1].margin or 1.0)))
    unknown = [
        f"{task} in {one.name} ({words.counted(one.pictures, 'picture')}, {words.counted(one.answered, 'label')})"
        for task, _, one in lines
        if not _is_known(one)
    ]
    if not lines:
        return []
    hidden, rows = result.hidden_losses, []
    for task, each, one in known:
        sign, tone = _MARKS[one.verdict] if one.verdict else ("", "")
        if f"{task} in {one.name}" in hidden:
            sign, tone = "! hidden", "bad"
        open_ones = one.asked - one.answered - one.skipped
        rows.append(
            [
                Cell(one.name, "strong"),
                Cell(task),
                Cell(f"{one.pictures:,}"),
                Cell(f"{one.answered:,} of {one.asked:,}" if open_ones else f"{one.answered:,}"),
                Cell(_signed(one.delta, each), tone),
                Cell(" … ".join(_signed(end, each) for end in one.ci95 or ()), "quiet"),
                Cell(words.NONE if one.p_holm is None else f"{one.p_holm:.2g}"),
                Cell(sign, tone),
            ]
        )
    columns = ["slice", "task", "pictures", "labels", "delta", _INTERVAL, "p (Holm)", ""]
    table = [Table("Slices, worst first", columns, rows, frozenset({"slice", "task", ""}))] if rows else []
    notes = (
        [
            f"Too few labels to say anything, or fewer than {FEWEST} pictures: {a_few(unknown, 6)}. A "
            "larger --ask asks for more."
        ]
        if unknown
        else []
    )
    return [
        Section(
            "slices",
            "Slices, worst first",
            [*table, Text(_OF_SLICES, quiet=True), *map(Text, notes)],
            table,
            notes,
        )
    ]


def _is_known(one: LabelledSlice) -> bool:
    """Whether anything can be said of a slice: from answers, or because so few of its pictures differ."""
    return one.ci95 is not None and (one.delta is not None or not one.asked)


def _hidden(result: LabelledSet) -> str:
    """The line under the verdict: slices with a loss that the mean hides; empty without any."""
    named = [
        f"{name} {_signed(one.delta, task)} ({words.counted(one.answered, 'label')})"
        for name, (task, one) in result.hidden_losses.items()
    ]
    return f"! The mean hides a loss: {'; '.join(named[:3])}." if named else ""


def _interval(result: LabelledTask) -> str:
    if result.ci95 is None:
        return words.NONE
    ends = " … ".join(_signed(end, result) for end in result.ci95)
    return f"{ends} …" if result.anytime else ends


def _signed(value: float | None, result: LabelledTask) -> str:
    """In points to a hundredth, in a unit of the labels to three digits."""
    if value is None:
        return words.NONE
    text = f"{value:+.2f}" if result.in_points else f"{value:+.3g}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")
