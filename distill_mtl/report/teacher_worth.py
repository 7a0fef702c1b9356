"""What each teacher was worth, from what a run measured: no second training is made for it.

Only a student that was trained without teachers shows the worth itself (`--baseline labels_only`). The other numbers
say how loud a teacher was, and what the student has of it. Read by `findings.py` and its section.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distill_mtl.recipe.schema import task_of
from distill_mtl.report.run_record import RunRecord

_NOT_TERMS = ("total", "gated")
_ASKED = {
    "missing": "rows without its label",
    "annealed": "rows without its label, or, where all have one, every row in the first epochs",
    "all": "every row",
    "none": "no row",
}


@dataclass(frozen=True)
class Difference:
    """Of two scores, in the score's unit.

    Attributes:
        points: positive where the student is better.
        error: half of its 95 % interval; None: not known.
    """

    points: float
    error: float | None


@dataclass(frozen=True)
class Worth:
    """One task's teacher.

    Attributes:
        asked: about which rows, and with which weights, in words; empty where the recipe does not say.
        loss: its part of what the task added to the loss in the second half of the run, in [0, 1]; None: not logged.
        own: how often student and teacher decide alike on rows with labels of the task, in [0, 1].
        elsewhere: the same on images of other data sets; None where every data set has labels of the task.
        lead: student − teacher.
        labels_alone: student − the same student trained without teachers; None where that was not trained. The error is
            an upper bound: both were measured against the teacher on the same rows, and are taken as independent.
    """

    asked: str
    loss: float | None
    own: float | None
    elsewhere: float | None
    lead: Difference
    labels_alone: Difference | None


def worth_of(run: RunRecord) -> dict[str, Worth]:
    """By task, of the tasks that have a teacher; none for an unfinished run."""
    return {} if run.results is None else {task: _worth(run, task) for task in run.results.compared}


def _worth(run: RunRecord, task: str) -> Worth:
    assert run.results is not None
    result = run.results.tasks[task]
    assert result.delta is not None
    lead = Difference(result.delta, _half(result.ci95))
    others = [
        found for found in run.results.cross_domain.get(task, {}).values() if found.agreement is not None
    ]
    rows = sum(found.rows for found in others)
    return Worth(
        _asked(run.recipe, task_of(task)),
        _loss(run, task_of(task)),
        result.agreement,
        sum(found.rows * (found.agreement or 0.0) for found in others) / rows if rows else None,
        lead,
        _over_labels_alone(run, task, lead),
    )


def teacher_weights(recipe: Mapping[str, Any], task: str) -> dict[str, float]:
    """Of a task's teacher by data set, where the recipe, which was read without being checked, gives some."""
    tasks = recipe.get("tasks")
    section = tasks.get(task) if isinstance(tasks, dict) else None
    weights = section.get("teacher_weight") if isinstance(section, dict) else None
    found = weights.items() if isinstance(weights, dict) else ()
    return {str(source): weight for source, weight in found if isinstance(weight, int | float)}


def _asked(recipe: Mapping[str, Any], task: str) -> str:
    training = recipe.get("training")
    on = training.get("teachers_on") if isinstance(training, dict) else None
    rows = _ASKED.get(on, "") if isinstance(on, str) else ""
    lowered = [
        f"{source} at {weight:g}" if weight else f"not {source}"
        for source, weight in teacher_weights(recipe, task).items()
        if weight != 1
    ]
    return "; ".join([rows, *lowered]) if rows and on != "none" else rows


def _loss(run: RunRecord, task: str) -> float | None:
    """All terms but that of the labels, as a part of the whole."""
    terms = run.metrics.terms.get(task, {})
    # A term that found no row for the rest of the run, as of a teacher that fell silent, is not logged there.
    half = max((curve.steps[-1] for curve in terms.values() if len(curve.steps)), default=0) / 2
    late = {
        term: float(curve.values[curve.steps >= half].sum())
        for term, curve in terms.items()
        if term not in _NOT_TERMS
    }
    total = sum(late.values())
    return 1 - late.get("supervised", 0.0) / total if total > 0 else None


def _over_labels_alone(run: RunRecord, task: str, lead: Difference) -> Difference | None:
    assert run.results is not None
    for baseline in run.results.baselines.values():
        found = baseline.tasks.get(task) if baseline.kind == "labels_only" else None
        if found is not None and found.delta is not None:
            mine, other = lead.error, _half(found.ci95)
            error = None if mine is None or other is None else math.hypot(mine, other)
            return Difference(lead.points - found.delta, error)
    return None


def _half(interval: tuple[float, float] | None) -> float | None:
    return None if interval is None else (interval[1] - interval[0]) / 2
