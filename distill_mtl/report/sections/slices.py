"""Slices of the test rows, those that lost most first."""

from collections.abc import Mapping

from distill_mtl.evaluation.result import SliceResult, TaskResult
from distill_mtl.evaluation.slices import FEWEST
from distill_mtl.report import words
from distill_mtl.report.blocks import Block, Cell, Chart, Charts, Folded, Section, Table, Text, Tone
from distill_mtl.report.charts import ForestLine, forest
from distill_mtl.report.headline import tone_of
from distill_mtl.report.run_record import RunRecord
from distill_mtl.report.sections import section
from distill_mtl.report.sections.scores import INTERVAL, by_unit

_IN_SHORT, _DRAWN = 6, 12
_COLUMNS = ("slice", "task", "rows", "teacher", "student", "delta", INTERVAL, "p (Holm)", "")
_MARKS: Mapping[Tone, str] = {"good": "✓", "bad": "✗", "unsure": "?"}
_WORDS = frozenset({"slice", "task"})
_LONGEST = 24


@section(25)
def slices(run: RunRecord) -> Section | None:
    """A chart of the worst slices, and a table of all of them."""
    if run.results is None:
        return None
    lines = [(task, result, one) for task, result in run.results.tasks.items() for one in result.slices]
    scored = [line for line in lines if line[2].student is not None]
    if not lines:
        return None
    scored.sort(key=lambda line: (line[2].delta is None, _severity(line[1], line[2])))
    few = [line for line in lines if line[2].student is None]
    hidden = run.results.hidden_losses
    rows = [_cells(*line, hidden=f"{line[0]} in {line[2].name}" in hidden) for line in scored]
    blocks: list[Block] = []
    drawn = [line for line in scored if line[2].delta is not None][:_DRAWN]
    if drawn:
        blocks += [Charts(_charts(drawn), wide=True), _how_to_read(len(scored))]
    if rows:
        blocks.append(Folded(f"All {len(rows)} scored slices", [Table("Slices", _COLUMNS, rows, _WORDS)]))
    if few:
        blocks.append(Text(_too_few(few)))
    summary: list[Block] = []
    if rows:
        summary.append(
            Table(
                "Slices, worst first",
                _COLUMNS,
                rows[:_IN_SHORT],
                _WORDS,
                narrow={INTERVAL: "fold", "slice": "shorten"},
            )
        )
    notes = [f"{len(rows) - _IN_SHORT:,} more slices stand in the report."] if len(rows) > _IN_SHORT else []
    notes += [_too_few(few)] if few else []
    return Section("slices", "Slices, worst first", blocks, summary=summary, notes=notes)


def _severity(result: TaskResult, one: SliceResult) -> float:
    """The difference in margins of the task, so that slices of tasks with other units stand in one order."""
    return (one.delta or 0.0) / (result.margin or 1.0)


def _cells(task: str, result: TaskResult, one: SliceResult, *, hidden: bool) -> list[Cell]:
    judged = result.on_slice(one)
    tone = tone_of(judged) or ("bad" if hidden else "")
    return [
        Cell(one.name, "strong"),
        Cell(task),
        Cell(f"{one.rows:,}"),
        Cell(words.score(one.teacher, judged)),
        Cell(words.score(one.student, judged), "strong"),
        Cell(words.difference(one.delta, judged), tone),
        Cell(words.interval(one.ci95, judged), "quiet"),
        Cell(words.NONE if one.p_holm is None else f"{one.p_holm:.2g}"),
        Cell("!" if hidden else _MARKS.get(tone_of(judged), ""), tone),
    ]


def _charts(lines: list[tuple[str, TaskResult, SliceResult]]) -> list[Chart]:
    """One for each unit, the worst slice at the top."""
    units = by_unit({task: result for task, result, _ in lines})
    found = []
    for number, (unit, tasks) in enumerate(units.items()):
        drawn = [_forest_line(*line) for line in lines if line[0] in tasks]
        said = ", ".join(f"{line.name} {line.words}" for line in drawn)
        found.append(Chart(forest(f"slices-{number}", f"Deltas by slice in {unit}: {said}", drawn, unit)))
    return found


def _forest_line(task: str, result: TaskResult, one: SliceResult) -> ForestLine:
    judged = result.on_slice(one)
    assert one.delta is not None
    name = words.brief(f"{task} · {one.name}", _LONGEST)
    return ForestLine(name, one.delta, one.ci95, judged.margin, words.difference(one.delta, judged))


def _how_to_read(count: int) -> Text:
    return Text(
        "Scores, delta and 95 % interval of each slice alone, from its own rows. p (Holm): of so large a difference by "
        f"chance where {words.counted(count, 'slice')} are looked at. !: a loss that the mean hides, beyond the margin "
        "as measured and beyond chance. ✓, ✗ and ?: slices with a margin of their own.",
        quiet=True,
    )


def _too_few(few: list[tuple[str, TaskResult, SliceResult]]) -> str:
    """Each slice once, with the most rows that it has in a task."""
    most: dict[str, tuple[int, int]] = {}
    for _, _, one in few:
        most[one.name] = max(most.get(one.name, (0, 0)), (one.groups, one.rows))
    named = [
        f"{name} ({words.counted(rows, 'row')}{f' in {groups:,} groups' if groups != rows else ''})"
        for name, (groups, rows) in most.items()
    ]
    return (
        f"Too few rows to score, fewer than {FEWEST} independent ones or without classes: {', '.join(named)}."
    )
