"""The verdict in one sentence: what is decided, and about how many more rows would decide the rest."""

import math
from collections.abc import Mapping

from distill_mtl.evaluation.result import Evaluation, TaskResult
from distill_mtl.report.figures import signed


def verdict_line(evaluation: Evaluation) -> str:
    """Begins with ✓ for accepted, ✗ where a task is inferior, ? where tasks are only undecided, – for nothing."""
    verdicts = {task: result.verdict for task, result in evaluation.compared.items()}
    if not verdicts:
        return "– nothing to judge: no task has a teacher"
    inferior = [_loss(evaluation, task) for task in verdicts if verdicts[task] == "inferior"]
    open_ones = {task: evaluation.tasks[task] for task in verdicts if verdicts[task] == "undecided"}
    if not inferior and not open_ones:
        return f"✓ accepted: {_kept(evaluation, list(verdicts))}"
    parts = []
    if inferior:
        parts.append(("inferior: " if evaluation.acceptance.rule == "interval" else "") + ", ".join(inferior))
    if open_ones:
        parts.append(f"undecided: {_undecided(open_ones)}")
    return f"{'✗ not accepted' if inferior else '? not accepted yet'}: {'; '.join(parts)}"


def _loss(evaluation: Evaluation, task: str) -> str:
    result = evaluation.tasks[task]
    return f"{task} {signed(result.delta, result)} (allowed {signed(-result.margin, result)})"


def _undecided(tasks: Mapping[str, TaskResult]) -> str:
    """`left (about 1,200 more rows would decide), right (about 300 more), depth (it lies on the margin)`."""
    texts, what = [], " rows would decide"
    for task, result in tasks.items():
        if result.rows_to_decide is None:
            why = "all its rows are of one group" if result.ci95 is None else "it lies on the margin"
            texts.append(f"{task} ({why})")
        else:
            texts.append(f"{task} (about {_about(result.rows_to_decide)} more{what})")
            what = ""
    return ", ".join(texts)


def _kept(evaluation: Evaluation, tasks: list[str]) -> str:
    margins = {evaluation.tasks[task].margin for task in tasks}
    alike = len(margins) == 1 and all(evaluation.tasks[task].in_points for task in tasks)
    margin = f"more than {_plural(margins.pop())}" if alike else "more than its margin"
    how = ", by its 95 % interval" if evaluation.acceptance.rule == "interval" else ""
    return f"no task lost {margin}{how}"


def _about(rows: int) -> str:
    """Two digits that matter, rounded up."""
    step = 10 ** max(0, math.floor(math.log10(rows)) - 1)
    return f"{math.ceil(rows / step) * step:,}"


def _plural(points: float) -> str:
    return f"{points:g} point" + ("" if points == 1 else "s")
