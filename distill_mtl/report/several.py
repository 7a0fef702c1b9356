"""The report that compares runs: what each won or lost, what each takes, and how their recipes differ."""

from collections.abc import Sequence
from typing import Any

from distill_mtl.report import words
from distill_mtl.report.blocks import Block, Cell, Chart, Charts, Code, Report, Section, Table, Text
from distill_mtl.report.colors import TEACHER, series
from distill_mtl.report.costs import cost_bars
from distill_mtl.report.forest import Lead, forest
from distill_mtl.report.headline import by_interval, judged, outcome
from distill_mtl.report.lines import Line, lines
from distill_mtl.report.results import Results, TaskScore
from distill_mtl.report.run import Run
from distill_mtl.report.scores import leads_by_unit, verdict_sign

_LONG = 60


def comparison_of(runs: Sequence[Run]) -> Report:
    """Finished runs beside each other; unfinished ones show their curves and recipe alone."""
    sections = [
        _tasks(runs),
        _deltas(runs),
        _cost(runs),
        _losses(runs),
        _recipes(runs),
        Section("repeat", "To repeat it", [Code(_command(runs), "sh")]),
    ]
    sentence, tone = _headline(runs)
    return Report(
        eyebrow=f"{len(runs)} runs",
        headline=sentence,
        tone="good" if tone else "unsure",
        advice=[],
        figures=[],
        facts=" · ".join(run.label for run in runs),
        sections=[section for section in sections if section is not None],
    )


def _finished(runs: Sequence[Run]) -> list[tuple[int, Run, Results]]:
    """Number, run and results of those that have results."""
    return [(number, run, run.results) for number, run in enumerate(runs) if run.results is not None]


def _headline(runs: Sequence[Run]) -> tuple[str, bool]:
    accepted = [run.label for _, run, results in _finished(runs) if results.accepted]
    unfinished = [run.label for run in runs if run.results is None]
    rest = f"; not finished: {words.listed(unfinished)}" if unfinished else ""
    if not accepted:
        return f"None of {len(runs)} runs is accepted{rest}.", False
    if len(accepted) == len(runs):
        return f"{'Both' if len(runs) == 2 else f'All {len(runs)}'} runs are accepted.", True
    verb = "is" if len(accepted) == 1 else "are"
    return f"{words.listed(accepted)} {verb} accepted, of {len(runs)} runs{rest}.", True


def _task_names(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(task for run in runs for task in run.tasks))


def _tasks(runs: Sequence[Run]) -> Section | None:
    finished = _finished(runs)
    if not finished:
        return None
    columns = ["task", "run", "metric", "teacher", "student", "delta", "95 % interval", "verdict"]
    rows = []
    for task in _task_names(runs):
        name = task
        for _, run, results in finished:
            if (score := results.tasks.get(task)) is None:
                continue
            sign = verdict_sign(score, results)
            rows.append(
                [
                    Cell(name),
                    Cell(run.label),
                    Cell(words.metric(score), "quiet"),
                    Cell(words.score(score.teacher, score)),
                    Cell(words.score(score.student, score), "strong"),
                    Cell(words.difference(score.delta, score), sign.tone),
                    Cell(words.interval(score.ci95, score), "quiet"),
                    sign,
                ]
            )
            name = ""
    table = Table("Tasks by run", columns, rows, frozenset({"task", "run", "metric", "verdict"}))
    note = Text(
        "Every run against its own teachers. Two runs' intervals may overlap and the runs still differ: compare their "
        "students on the same rows with distill-mtl evaluate --student A/student --against B/student.",
        quiet=True,
    )
    return Section("tasks", "Task by task", [table, note])


def _deltas(runs: Sequence[Run]) -> Section | None:
    scores: dict[str, TaskScore] = {}
    for _, _, results in _finished(runs):
        scores |= {task: score for task, score in judged(results).items() if task not in scores}
    if not scores:
        return None
    charts = []
    for number, (unit, tasks) in enumerate(leads_by_unit(scores).items()):
        leads = [lead for task in _task_names(runs) if task in tasks for lead in _leads(task, runs)]
        said = ", ".join(f"{lead.name} {lead.words}" for lead in leads)
        charts.append(
            Chart(
                forest(f"forest-{number}", f"Deltas of students and teachers in {unit}: {said}", leads, unit)
            )
        )
    note = Text("Point and line: delta and its 95 % interval. Dashed: the margin.", quiet=True)
    return Section("deltas", "What each task won or lost", [Charts(charts, wide=True), note])


def _leads(task: str, runs: Sequence[Run]) -> list[Lead]:
    found: list[Lead] = []
    for number, run, results in _finished(runs):
        score = results.tasks.get(task)
        if score is None or score.delta is None:
            continue
        sign = {"good": " ✓", "bad": " ✗", "unsure": " ?"}[outcome(score, interval=by_interval(results))]
        found.append(
            Lead(
                f"{task} · {run.label}",
                score.delta,
                score.ci95,
                score.margin,
                words.difference(score.delta, score) + sign,
                series(number)[0],
                opens=not found,
            )
        )
    return found


def _cost(runs: Sequence[Run]) -> Section | None:
    finished = _finished(runs)
    if not finished:
        return None
    networks = [(run.label, results.cost.student, series(number)[0]) for number, run, results in finished]
    teachers = next((results.cost.teachers for _, _, results in finished if results.cost.teachers), None)
    if teachers is not None:
        networks.append((f"teachers of {finished[0][1].label}", teachers, TEACHER))
    return Section("cost", "What each takes", [Charts([Chart(cost_bars("cost", networks))], wide=True)])


def _losses(runs: Sequence[Run]) -> Section | None:
    charts = []
    for place, task in enumerate(_task_names(runs)):
        drawn = [
            Line(run.label, run.metrics.terms[task]["total"], *series(number))
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


def _recipes(runs: Sequence[Run]) -> Section:
    """The keys in which the recipes differ."""
    flat = [_flat(run.recipe) for run in runs]
    keys = dict.fromkeys(key for recipe in flat for key in recipe)
    different = [key for key in keys if len({recipe.get(key, words.NONE) for recipe in flat}) > 1]
    blocks: list[Block] = [Text("The recipes are equal.")]
    if different:
        rows = [
            [Cell(key), *(Cell(_shortened(recipe.get(key, words.NONE))) for recipe in flat)]
            for key in different
        ]
        columns = ["key", *(run.label for run in runs)]
        blocks = [Table("Recipes", columns, rows, frozenset({"key"}))]
    return Section("recipes", "Where the recipes differ", blocks)


def _flat(value: Any, path: str = "") -> dict[str, str]:
    """Dotted key -> value as text, of all leaves."""
    if isinstance(value, dict) and value:
        found: dict[str, str] = {}
        for key, entry in value.items():
            found |= _flat(entry, f"{path}.{key}" if path else str(key))
        return found
    if isinstance(value, bool) or value is None:
        return {path: {None: "null", True: "true", False: "false"}[value]}
    return {path: str(value)}


def _shortened(text: str) -> str:
    return text if len(text) <= _LONG else f"…{text[1 - _LONG :]}"


def _command(runs: Sequence[Run]) -> str:
    return f"distill-mtl report {' '.join(str(run.files.path) for run in runs)}"
