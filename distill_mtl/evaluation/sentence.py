"""The verdict in one sentence: what is decided, and about how many more rows would decide the rest."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from distill_mtl.evaluation.figures import signed
from distill_mtl.evaluation.verdict import Verdict

if TYPE_CHECKING:
    from distill_mtl.evaluation.results import Evaluation


def verdict_line(evaluation: "Evaluation") -> str:
    """Begins with ✓ for accepted, ✗ where a task is inferior, ? where tasks are only undecided, – for nothing."""
    verdicts = {task: verdict for task in evaluation.tasks if (verdict := evaluation.verdict(task))}
    if not verdicts:
        return "– nothing to judge: no task has a teacher"
    inferior = [_loss(evaluation, task) for task in verdicts if verdicts[task].decision == "inferior"]
    open_ones = {task: each for task, each in verdicts.items() if each.decision == "undecided"}
    if not inferior and not open_ones:
        return f"✓ accepted: {_kept(evaluation, list(verdicts))}"
    parts = []
    if inferior:
        parts.append(("inferior: " if evaluation.rule == "interval" else "") + ", ".join(inferior))
    if open_ones:
        parts.append(f"undecided: {_undecided(open_ones)}")
    return f"{'✗ not accepted' if inferior else '? not accepted yet'}: {'; '.join(parts)}"


def _loss(evaluation: "Evaluation", task: str) -> str:
    result = evaluation.tasks[task]
    return f"{task} {signed(result.delta, result)} (allowed {signed(-evaluation.acceptance[task], result)})"


def _undecided(verdicts: Mapping[str, Verdict]) -> str:
    """`left (about 1,200 more rows would decide), right (about 300 more), depth (it lies on the margin)`."""
    texts, what = [], " rows would decide"
    for task, verdict in verdicts.items():
        if verdict.rows_to_decide is None:
            texts.append(f"{task} ({verdict.reason})")
        else:
            texts.append(f"{task} (about {_about(verdict.rows_to_decide)} more{what})")
            what = ""
    return ", ".join(texts)


def _kept(evaluation: "Evaluation", tasks: list[str]) -> str:
    margins = {evaluation.acceptance[task] for task in tasks}
    alike = len(margins) == 1 and all(evaluation.tasks[task].in_points for task in tasks)
    margin = f"more than {_plural(margins.pop())}" if alike else "more than its margin"
    how = ", by its 95 % interval" if evaluation.rule == "interval" else ""
    return f"no task lost {margin}{how}"


def _about(rows: int) -> str:
    """Two digits that matter, rounded up."""
    step = 10 ** max(0, math.floor(math.log10(rows)) - 1)
    return f"{math.ceil(rows / step) * step:,}"


def _plural(points: float) -> str:
    return f"{points:g} point" + ("" if points == 1 else "s")
