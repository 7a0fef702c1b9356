"""The comparison as a person reads it: tables for a console, and the same figures in Markdown.

`Evaluation.table` and `Evaluation.markdown` call this; the model card holds the Markdown form.
"""

from collections.abc import Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from distill_mtl.evaluation.cross_domain import notable
from distill_mtl.evaluation.result import Cost, Evaluation, HeadCost, TaskResult
from distill_mtl.report.details import worst_line
from distill_mtl.report.figures import NONE, rounded, signed
from distill_mtl.report.sentence import verdict_line

_INTERVAL = "95 % interval"
_TASK_COLUMNS = ("task", "metric", "rows", "teacher", "student", "delta", _INTERVAL, "agree", "")
_SCORE_COLUMNS = ("task", "metric", "rows", "student")
_COST_COLUMNS = ("cost", "parameters", "MFLOPs", "MB", "latency", "rows/s", "memory")
_HEAD_COLUMNS = ("head", "parameters", "share", "MFLOPs", "share")
_LEFT = ("task", "metric", "cost", "head")
_MANY_HEADS, _SHOWN_HEADS = 8, 3
_UNKNOWN = "not known"
_LONGEST_NAME = 16
_COLORS = {"✓": "green", "✗": "red", "?": "yellow", "–": "dim"}
_MARKS = {"non-inferior": "✓", "inferior": "✗", "undecided": "?"}


def console_table(evaluation: Evaluation) -> RenderableType:
    """Scores, cost, verdict and notes, one under the other, for a rich console of 80 columns or more."""
    columns = _shown_columns(evaluation)
    styled = [row for task in evaluation.tasks for row in _styled_rows(evaluation, task)]
    scores = _frame(columns, [[row[column] for column in columns] for row in styled])
    costs = _frame(
        _COST_COLUMNS,
        [[Text(cell, "bold" if row[0] == "ratio" else "") for cell in row] for row in _cost_rows(evaluation)],
    )
    said = verdict_line(evaluation)
    verdict = Text(said, f"bold {_COLORS[said[0]]}")
    notes = [Text(note, "dim") for note in _notes(evaluation)]
    taken: list[RenderableType] = []
    if evaluation.cost.heads:
        taken = [_frame(_HEAD_COLUMNS, [[Text(cell) for cell in row] for row in _head_rows(evaluation)]), ""]
    return Group(Text(_title(evaluation), "bold"), "", scores, "", costs, "", *taken, verdict, *notes)


def markdown_table(evaluation: Evaluation) -> str:
    """The same figures as Markdown tables with the verdict and the notes beneath."""
    columns = _shown_columns(evaluation)
    cells = [
        dict(zip(_TASK_COLUMNS, row, strict=True))
        for task in evaluation.tasks
        for row in (_task_cells(evaluation, task), *_baseline_rows(evaluation, task))
    ]
    scores = [tuple(row[column] for column in columns) for row in cells]
    parts = [
        _markdown(columns, scores),
        _markdown(_COST_COLUMNS, _cost_rows(evaluation)),
        *([_markdown(_HEAD_COLUMNS, _head_rows(evaluation))] if evaluation.cost.heads else []),
        f"**{verdict_line(evaluation)}**",
        *(note.replace("*", "\\*") for note in _notes(evaluation)),
    ]
    return "\n\n".join(parts) + "\n"


# ---- figures as text, shared by both forms --------------------------------------------------------
def _task_cells(evaluation: Evaluation, task: str) -> tuple[str, ...]:
    result = evaluation.tasks[task]
    verdict = evaluation.tasks[task].verdict
    return (
        task + (" *" if task in _possibly_seen(evaluation) else ""),
        result.metric if result.higher_is_better else f"{result.metric} ↓",
        f"{result.rows:,}",
        _number(result.teacher, result),
        _number(result.student, result),
        signed(result.delta, result),
        NONE if result.ci95 is None else " … ".join(signed(end, result) for end in result.ci95),
        NONE if result.agreement is None else f"{100 * result.agreement:.1f} %",
        NONE if verdict is None else _MARKS[verdict],
    )


def _baseline_rows(evaluation: Evaluation, task: str) -> list[tuple[str, ...]]:
    """Under a task, every baseline in the student's column."""
    result = evaluation.tasks[task]
    return [
        (
            f"· {_fitting(name)}",
            *("",) * 3,
            _number(score.score, result),
            signed(score.delta, result),
            NONE if score.ci95 is None else " … ".join(signed(end, result) for end in score.ci95),
            *("",) * 2,
        )
        for name, baseline in evaluation.baselines.items()
        if (score := baseline.tasks.get(task)) is not None
    ]


def _fitting(name: str) -> str:
    """A baseline's name in words, or the end of a long path."""
    shown = name if "/" in name else name.replace("_", " ")
    return shown if len(shown) <= _LONGEST_NAME else "…" + shown[-_LONGEST_NAME + 1 :]


def _cost_rows(evaluation: Evaluation) -> list[tuple[str, ...]]:
    student, teachers = evaluation.cost.student, evaluation.cost.teachers
    rows = [_cost_cells("student", student)]
    if teachers is not None:
        count = sum(result.teacher is not None for result in evaluation.tasks.values())
        rows.append(_cost_cells("teacher" if count == 1 else f"{count} teachers", teachers))
        pairs: tuple[tuple[float | None, float | None], ...] = (
            (student.parameters, teachers.parameters),
            (student.flops, teachers.flops),
            (student.bytes, teachers.bytes),
            (student.latency_ms, teachers.latency_ms),
            (student.rows_per_second, teachers.rows_per_second),
            (student.peak_memory, teachers.peak_memory),
        )
        rows.append(
            ("ratio", *(f"{mine / theirs:.2f}×" if mine and theirs else NONE for mine, theirs in pairs))
        )
    return rows


def _cost_cells(name: str, cost: Cost) -> tuple[str, ...]:
    return (
        name,
        f"{cost.parameters:,}" if cost.parameters is not None else _UNKNOWN,
        _short(cost.flops / 1e6) if cost.flops is not None else _UNKNOWN,
        _short(cost.bytes / 1e6) if cost.bytes is not None else _UNKNOWN,
        f"{cost.latency_ms:.2f} ms",
        _short(cost.rows_per_second) if cost.rows_per_second is not None else _UNKNOWN,
        f"{_short(cost.peak_memory / 1e6)} MB" if cost.peak_memory is not None else _UNKNOWN,
    )


def _head_rows(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """Every head, or of many the largest few; and all of them together."""
    heads = evaluation.cost.heads
    shown = list(heads)
    if len(heads) > _MANY_HEADS:
        shown = sorted(heads, key=lambda task: -heads[task].parameters)[:_SHOWN_HEADS]
    rows = [_head_cells(evaluation, task, [heads[task]]) for task in shown]
    if len(heads) > 1:
        rows.append(_head_cells(evaluation, f"all {len(heads)}", list(heads.values())))
    return rows


def _head_cells(evaluation: Evaluation, name: str, heads: list[HeadCost]) -> tuple[str, ...]:
    whole = evaluation.cost.student
    parameters = sum(head.parameters for head in heads)
    flops = sum(head.flops for head in heads)
    return (
        name,
        f"{parameters:,}",
        _percent(parameters, whole.parameters),
        _short(flops / 1e6) if whole.flops else _UNKNOWN,
        _percent(flops, whole.flops),
    )


def _has_teachers(evaluation: Evaluation) -> bool:
    return any(result.teacher is not None for result in evaluation.tasks.values())


def _shown_columns(evaluation: Evaluation) -> tuple[str, ...]:
    """All, or without a teacher the score alone: there is nothing to compare."""
    return _TASK_COLUMNS if _has_teachers(evaluation) else _SCORE_COLUMNS


def _title(evaluation: Evaluation) -> str:
    rows = f"{evaluation.split} rows" if evaluation.split is not None else "all rows"
    if not _has_teachers(evaluation):
        return f"Scores on {rows}"
    if evaluation.student is not None:
        return f"{evaluation.student} (student) against {evaluation.against} (teacher), {rows}"
    return f"Student against teachers, {rows}"


def _notes(evaluation: Evaluation) -> list[str]:
    notes = [worst] if (worst := worst_line(evaluation)) else []
    if _possibly_seen(evaluation):
        notes.append(
            "* rows split off by a hash of their key: the teacher may have seen them in its training."
        )
    if any(result.ci95 is None and result.delta is not None for result in evaluation.tasks.values()):
        notes.append("No interval where all rows belong to one group: there is nothing to resample.")
    if evaluation.cost.student.rows_per_second is not None:
        batch = evaluation.cost.student.batch
        notes.append(
            f"Latency of one image, rows/s and memory of batches of {batch}; on {evaluation.cost.machine}."
        )
    return [*notes, *cross_domain_notes(evaluation)]


def cross_domain_notes(evaluation: Evaluation) -> Iterator[str]:
    """A line for each source on which a student agrees with its teacher notably less than at home."""
    for task, sources in evaluation.cross_domain.items():
        home = evaluation.tasks[task].agreement
        for source, found in sources.items():
            if notable(home, found.agreement, found.rows):
                assert home is not None
                assert found.agreement is not None
                yield (
                    f"{task} agrees with its teacher on {100 * found.agreement:.1f} % of {found.rows:,} images of "
                    f"'{source}', at home on {100 * home:.1f} %: does the student answer otherwise there?"
                )


def _possibly_seen(evaluation: Evaluation) -> set[str]:
    return {task for task in evaluation.hashed if evaluation.tasks[task].teacher is not None}


def _styled_rows(evaluation: Evaluation, task: str) -> list[dict[str, Text]]:
    """The student's row, and under it the baselines'."""
    others = [
        {column: Text(cell, "dim") for column, cell in zip(_TASK_COLUMNS, cells, strict=True)}
        for cells in _baseline_rows(evaluation, task)
    ]
    return [_styled_cells(evaluation, task), *others]


def _styled_cells(evaluation: Evaluation, task: str) -> dict[str, Text]:
    judged = _delta_style(evaluation, task)
    styles = {
        "task": "bold",
        "metric": "dim",
        "student": "bold",
        "delta": judged,
        _INTERVAL: "dim",
        "": judged,
    }
    cells = zip(_TASK_COLUMNS, _task_cells(evaluation, task), strict=True)
    return {column: Text(cell, styles.get(column, "")) for column, cell in cells}


def _delta_style(evaluation: Evaluation, task: str) -> str:
    """Red where inferior, bold yellow where undecided; else green for a gain, yellow for a loss."""
    delta = evaluation.tasks[task].delta
    verdict = evaluation.tasks[task].verdict
    if delta is None or verdict is None:
        return "dim"
    if verdict != "non-inferior":
        return "bold red" if verdict == "inferior" else "bold yellow"
    return "green" if delta >= 0 else "yellow"


def _number(value: float | None, result: TaskResult) -> str:
    return NONE if value is None else rounded(value, result)


def _short(value: float) -> str:
    """Three digits that matter, thousands kept whole."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _percent(part: int, whole: int | None) -> str:
    return f"{100 * part / whole:.1f} %" if whole else NONE


# ---- frames ---------------------------------------------------------------------------------------
def _frame(columns: tuple[str, ...], rows: list[list[Text]]) -> Table:
    """A table that folds the interval, where the console is narrow, then shortens the metric's name, but no figure."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, collapse_padding=True, header_style="dim")
    for index, column in enumerate(columns):
        texts, folds = [column, *(row[index].plain for row in rows)], column == _INTERVAL
        if folds:  # between the interval's ends, and in its heading
            texts = [
                part for text in texts for part in text.replace("… ", "…\n").replace("% ", "%\n").splitlines()
            ]
        table.add_column(
            column,
            justify="left" if column in _LEFT else "right",
            min_width=len(column) if column == "metric" else max(map(len, texts)),
            no_wrap=column != "metric" and not folds,
            overflow="ellipsis",
        )
    for row in rows:
        table.add_row(*row)
    return table


def _markdown(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    rule = ("---" if column in _LEFT else "---:" for column in columns)
    lines = (columns, tuple(rule), *(tuple(cell.replace(" *", " \\*") for cell in row) for row in rows))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
