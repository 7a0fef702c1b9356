"""The report that compares runs: each one's change per task, what each costs, and how their recipes differ."""

from collections.abc import Iterator, Sequence
from typing import Any

from distill_mtl.evaluation.result import Evaluation, TaskResult
from distill_mtl.report import words
from distill_mtl.report.blocks import (
    Block,
    Cell,
    Chart,
    Charts,
    Code,
    Folded,
    Report,
    Section,
    Table,
    Text,
    Tone,
)
from distill_mtl.report.charts import TEACHER, ForestLine, Line, forest, lines, series
from distill_mtl.report.headline import hidden_losses, tone_of
from distill_mtl.report.run_record import RunRecord
from distill_mtl.report.sections.costs import cost_bars, ratios
from distill_mtl.report.sections.scores import INTERVAL, by_unit, verdict_sign
from distill_mtl.report.seeds import by_recipe, seeds_section, verdict_over_seeds

_LONG = 60


def comparison_of(runs: Sequence[RunRecord]) -> Report:
    """Finished runs beside each other; unfinished ones show their curves and recipe alone."""
    recipes = by_recipe(runs)
    sections = [
        seeds_section(recipes),
        _tasks(runs),
        _deltas(runs),
        _cost(runs),
        _losses(runs),
        _recipes(runs),
        Section("repeat", "Reproduce", [Code(_command(runs), "sh")]),
    ]
    sentence, accepted = _headline(runs)
    tone: Tone = "good" if accepted else "unsure"
    title, verdict = f"{len(runs)} runs", None
    if len(recipes) == 1 and len(recipes[0].runs) > 1:
        said, tone = verdict_over_seeds(recipes[0])
        sentence, title = (
            f"{said[2:3].upper()}{said[3:]}.",
            f"{recipes[0].label}, {len(recipes[0].runs)} seeds",
        )
        verdict = Text(said, tone=tone)
    return Report(
        eyebrow=f"{len(runs)} runs",
        headline=sentence,
        tone=tone,
        advice=[],
        figures=[],
        facts=" · ".join(run.label for run in runs),
        sections=[section for section in sections if section is not None],
        title=title,
        verdict=verdict,
        hidden=_hidden(runs),
    )


def _finished(runs: Sequence[RunRecord]) -> list[tuple[int, RunRecord, Evaluation]]:
    """Number, run and results of those that have results."""
    return [(number, run, run.results) for number, run in enumerate(runs) if run.results is not None]


def _headline(runs: Sequence[RunRecord]) -> tuple[str, bool]:
    accepted = [run.label for _, run, results in _finished(runs) if results.accepted]
    unfinished = [run.label for run in runs if run.results is None]
    rest = f"; not finished: {words.listed(unfinished)}" if unfinished else ""
    if not accepted:
        return f"None of {len(runs)} runs is accepted{rest}.", False
    if len(accepted) == len(runs):
        return f"{'Both' if len(runs) == 2 else f'All {len(runs)}'} runs are accepted.", True
    verb = "is" if len(accepted) == 1 else "are"
    return f"{words.listed(accepted)} {verb} accepted, of {len(runs)} runs{rest}.", True


def _hidden(runs: Sequence[RunRecord]) -> str:
    """What the means of runs hide, by run."""
    return " ".join(
        f"{run.label}: {line}" for _, run, results in _finished(runs) if (line := hidden_losses(results))
    )


def _task_names(runs: Sequence[RunRecord]) -> list[str]:
    return list(dict.fromkeys(task for run in runs for task in run.tasks))


def _tasks(runs: Sequence[RunRecord]) -> Section | None:
    """Task by run: the delta with its verdict, the student's score under it."""
    finished = _finished(runs)
    if not finished:
        return None
    rows = [
        [Cell(task), *(_outcome(task, results) for _, _, results in finished)] for task in _task_names(runs)
    ]
    columns = ["task", *(run.label for _, run, _ in finished)]
    note = Text(
        "Delta to the run's own teacher, positive where the student is better; under it the student's score. Two runs "
        "are told apart on the same rows by distill-mtl evaluate --student A/student --against B/student.",
        quiet=True,
    )
    blocks: list[Block] = [Table("Deltas by run", columns, rows, frozenset({"task"})), note, _details(runs)]
    return Section("tasks", "Results per task", blocks)


def _outcome(task: str, results: Evaluation) -> Cell:
    if (score := results.tasks.get(task)) is None:
        return Cell(words.NONE, "quiet")
    sign = verdict_sign(score, results)
    mark = "" if sign.words == words.NONE else f" {sign.words[0]}"
    aside = f"{words.score(score.student, score)} {words.metric(score)}"
    return Cell(words.difference(score.delta, score) + mark, sign.tone, aside=aside)


def _details(runs: Sequence[RunRecord]) -> Folded:
    columns = ["task", "run", "teacher", "student", "delta", INTERVAL, "verdict"]
    rows = []
    for task in _task_names(runs):
        for _, run, results in _finished(runs):
            if (score := results.tasks.get(task)) is None:
                continue
            sign = verdict_sign(score, results)
            rows.append(
                [
                    Cell(task),
                    Cell(run.label),
                    Cell(words.score(score.teacher, score)),
                    Cell(words.score(score.student, score), "strong"),
                    Cell(words.difference(score.delta, score), sign.tone),
                    Cell(words.interval(score.ci95, score), "quiet"),
                    sign,
                ]
            )
    table = Table("Scores by task and run", columns, rows, frozenset({"task", "run", "verdict"}))
    return Folded("Scores and intervals", [table])


def _deltas(runs: Sequence[RunRecord]) -> Section | None:
    scores: dict[str, TaskResult] = {}
    for _, _, results in _finished(runs):
        scores |= {task: score for task, score in results.compared.items() if task not in scores}
    if not scores:
        return None
    charts = []
    for number, (unit, tasks) in enumerate(by_unit(scores).items()):
        drawn = [line for task in _task_names(runs) if task in tasks for line in _forest_lines(task, runs)]
        said = ", ".join(f"{line.name} {line.words}" for line in drawn)
        charts.append(
            Chart(
                forest(f"forest-{number}", f"Deltas of students and teachers in {unit}: {said}", drawn, unit)
            )
        )
    note = Text("Point and line: delta and its 95 % interval. Dashed: the margin.", quiet=True)
    return Section("deltas", "Change per task (student − teacher)", [Charts(charts, wide=True), note])


def _forest_lines(task: str, runs: Sequence[RunRecord]) -> list[ForestLine]:
    found: list[ForestLine] = []
    for number, run, results in _finished(runs):
        score = results.tasks.get(task)
        if score is None or score.delta is None:
            continue
        sign = {"good": " ✓", "bad": " ✗", "unsure": " ?"}[tone_of(score)]
        found.append(
            ForestLine(
                f"{task} · {words.brief(run.label)}",
                score.delta,
                score.ci95,
                score.margin,
                words.difference(score.delta, score) + sign,
                series(number)[0],
                opens=not found,
            )
        )
    return found


def _cost(runs: Sequence[RunRecord]) -> Section | None:
    finished = _finished(runs)
    if not finished:
        return None
    networks = [
        (words.brief(run.label), results.cost.student, series(number)[0]) for number, run, results in finished
    ]
    teachers = [results.cost.teachers for _, _, results in finished]
    # Runs of other teachers have no common bar.
    if teachers[0] is not None and len({each and each.parameters for each in teachers}) == 1:
        networks.append(("teachers", teachers[0], TEACHER))
    chart = Chart(cost_bars("cost", networks, measured=False), "What is counted")
    by_run = [ratios(results.cost) for _, _, results in finished]
    rows = [[Cell(what), *(each[what] for each in by_run)] for what in by_run[0]]
    rows = [row for row in rows if any(cell.words != words.NONE for cell in row[1:])]
    columns = ["student ÷ its own teachers", *(run.label for _, run, _ in finished)]
    machines = [[Cell(run.label), Cell(results.cost.machine or words.NONE)] for _, run, results in finished]
    return Section(
        "cost",
        "Cost of each student",
        [
            Table("Student as a share of its own teachers", columns, rows, frozenset(columns[:1])),
            Text(
                "Latency, rows per second and memory of different runs were measured at different times: a machine "
                "that was busy during one makes it look slower. Student and teachers of one run were measured in "
                "turns, so their ratio is what compares.",
                quiet=True,
            ),
            Table(
                "Where each was measured", ["run", "measured on"], machines, frozenset({"run", "measured on"})
            ),
            Charts([chart], wide=True),
        ],
    )


def _losses(runs: Sequence[RunRecord]) -> Section | None:
    charts = []
    for place, task in enumerate(_task_names(runs)):
        drawn = [
            Line(words.brief(run.label), run.metrics.terms[task]["total"], *series(number))
            for number, run in enumerate(runs)
            if "total" in run.metrics.terms.get(task, {})
        ]
        if drawn:
            charts.append(
                Chart(lines(f"loss-{place}", f"Loss of {task} over steps, by run", drawn, columns=2), task)
            )
    if not charts:
        return None
    note = Text("Total loss of each task; runs with other weights or terms have another scale.", quiet=True)
    return Section("losses", "Losses", [Charts(charts), note])


def _recipes(runs: Sequence[RunRecord]) -> Section:
    """The keys in which the recipes differ; a part that some lack altogether is one line."""
    rows = [
        [Cell(key), *(Cell(_shortened(text)) for text in texts)]
        for key, texts in _differences([run.recipe for run in runs])
    ]
    blocks: list[Block] = [Text("The recipes are equal.")]
    if rows:
        columns = ["key", *(run.label for run in runs)]
        blocks = [Table("Recipes", columns, rows, frozenset({"key"}))]
    return Section("recipes", "Where the recipes differ", blocks)


_ABSENT = object()
_GIVEN = "given"


def _differences(values: Sequence[Any], path: str = "", told: int = 0) -> Iterator[tuple[str, list[str]]]:
    """Dotted key and a text for each recipe, of what is not the same in all that have it.

    Args:
        values: of each recipe under the path; `_ABSENT` where it has no such key.
        path: so far.
        told: how many lack a part of the path, as an earlier line says.
    """
    given = [value for value in values if value is not _ABSENT]
    differ = any(value != given[0] for value in given)
    if not all(isinstance(value, dict) for value in given):
        if differ or len(given) + told < len(values):
            yield path, [_text(value) for value in values]
        return
    if len(given) + told < len(values):
        yield path, [words.NONE if value is _ABSENT else _GIVEN for value in values]
        told = len(values) - len(given)
    if differ:
        for key in dict.fromkeys(key for value in given for key in value):
            inner = [_ABSENT if value is _ABSENT else value.get(key, _ABSENT) for value in values]
            yield from _differences(inner, f"{path}.{key}" if path else str(key), told)


def _text(value: Any) -> str:
    if value is _ABSENT:
        return words.NONE
    if isinstance(value, dict) and value:
        return _GIVEN
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _shortened(text: str) -> str:
    return text if len(text) <= _LONG else f"…{text[1 - _LONG :]}"


def _command(runs: Sequence[RunRecord]) -> str:
    return f"distill-mtl report {' '.join(str(run.files.path) for run in runs if run.files is not None)}"
