"""Why a student lost, from what its run measured, and what to try: the end of a report (`sections/findings.py`).

Each function of `_CAUSES` looks for one cause, in the order of section 7 of docs/merge-your-own-models.md. It gives a
finding only where the run measured it and the numbers show it beyond their uncertainty.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from distill_mtl.evaluation.cross_domain import notable
from distill_mtl.evaluation.result import ClassDelta, TaskResult
from distill_mtl.evaluation.task_comparison import worst_classes
from distill_mtl.report import words
from distill_mtl.report.run_record import Curve, RunRecord
from distill_mtl.report.teacher_worth import teacher_weights, worth_of

_FEWEST_LOOKS, _FEWEST_LINES = 4, 10
_MOST_TASKS = 4
_LONGEST_RUN = 4.0
"""A longer run than so many times this one is not proposed."""
_FAR = 20.0
"""A teacher that is so many runs away is out of reach."""
_SMALL_SHARE = 0.5
"""Of an equal share of the trunk's step."""
_NOT_FALLING, _OFTEN, _LONG_WAIT = 0.95, 0.5, 0.2


@dataclass(frozen=True)
class Finding:
    """One cause.

    Attributes:
        found: what was measured, with its numbers.
        remedy: what to try, in words.
        recipe: the same as lines of a recipe.
    """

    found: str
    remedy: str
    recipe: str


def findings_of(run: RunRecord) -> list[Finding]:
    """Everything that the numbers of a finished run show; nothing for an unfinished one."""
    return [] if run.results is None else [finding for cause in _CAUSES for finding in cause(run)]


def lost_tasks(run: RunRecord) -> dict[str, TaskResult]:
    """The tasks that lost against their teachers: beyond chance, or by more than is certainly allowed."""
    return {
        task: result
        for task, result in (run.results.compared if run.results is not None else {}).items()
        if (result.delta or 0.0) < 0
        and not result.unmeasured
        and (result.verdict != "non-inferior" or (result.ci95 is not None and result.ci95[1] < 0))
    }


def not_measured(run: RunRecord) -> list[str]:
    """What the run did not measure, so that no finding could come of it."""
    metrics, results = run.metrics, run.results
    there = {
        "validation scores in training (short runs have none)": metrics.validation,
        "scores on training rows": results is not None and results.training_rows,
        "the tasks' shares of the trunk's step": metrics.lengths,
        "clipped steps": metrics.clipped is not None,
        "the time that steps waited for rows": metrics.waiting is not None,
    }
    return [what for what, found in there.items() if not found]


# ---- causes
def _still_improving(run: RunRecord) -> Iterator[Finding]:
    """The slope of the validation score in the last part of the run, and how far away the teacher is."""
    assert run.results is not None
    lost, said, needed = lost_tasks(run), [], [0.0]
    for task, curve in run.metrics.validation.items():
        result = run.results.tasks.get(task)
        if result is None or (task not in lost and result.delta is not None):
            continue
        slope, error = _slope(curve, result)
        if slope <= error:
            continue
        rise = words.uncertain(100 * slope, 100 * error, result)
        span = f"over the last {curve.steps[-1] - curve.steps[0]:,.0f} steps"
        text = f"{task} {rise} in 100 steps, {span}"
        if result.delta is not None:
            needed.append(-result.delta / slope)
            text += f": at this rate its teacher is {_away(needed[-1], curve.steps[-1])}"
        said.append(text)
    if said:
        yield Finding(
            f"Still improving on validation rows when the run ended: {_few(said)}.",
            "Train longer. The rate falls towards the end of a run, so the number of steps is a guess.",
            _longer(run, max(needed)),
        )


def _rows_it_knows(run: RunRecord) -> Iterator[Finding]:
    """Training rows against test rows: learned by heart, or not learned at all."""
    assert run.results is not None
    by_heart, not_learned = [], []
    for task, result in lost_tasks(run).items():
        if (trained := run.results.training_rows.get(task)) is None or result.teacher is None:
            continue
        sign = 1 if result.higher_is_better else -1
        half = (trained.ci95[1] - trained.ci95[0]) / 2
        gap = sign * (trained.score - result.student)
        error = half * math.sqrt(1 + trained.rows / max(1, result.rows))
        score = f"{task} {words.score(trained.score, result)} on {trained.rows:,} training rows"
        if gap > max(error, result.margin):
            where = f"{words.score(result.student, result)} on test rows"
            by_heart.append(
                f"{score}, {where}: {words.score(gap, result)} ± {words.score(error, result)} apart"
            )
        elif sign * (result.teacher - trained.score) - half > result.margin:
            not_learned.append(
                f"{score}, its teacher {words.score(result.teacher, result)} on rows it has not seen"
            )
    if by_heart:
        yield Finding(
            f"Better on rows that it was trained on: {_few(by_heart)}.",
            "Let the teachers answer labelled rows too, and raise the weight decay. More pictures help most, labelled "
            "or not.",
            _against_overfitting(run),
        )
    if not_learned:
        model = _section(run, "student").get("model", "this one")
        yield Finding(
            f"Misses on rows that it was trained on: {_few(not_learned)}.",
            f"Train longer, or take a larger student than {model}; more data alone will not help.",
            _longer(run, 0.0),
        )


def _small_share(run: RunRecord) -> Iterator[Finding]:
    """A task that lost, and hardly moves the trunk."""
    lengths = {task: curve.part(0.5).mean for task, curve in run.metrics.lengths.items()}
    total, count = sum(lengths.values()), len(lengths)
    if count < 2 or not total > 0:
        return
    small = {
        task: lengths[task] / total
        for task in lost_tasks(run)
        if task in lengths and lengths[task] / total < _SMALL_SHARE / count
    }
    if small:
        said = []
        for task, share in small.items():
            weight = run.metrics.weights.get(task)
            beside = "" if weight is None else f", weight {weight.part(0.5).mean:.2g}"
            said.append(f"{task} {words.percent(share)}{beside}")
        yield Finding(
            f"A small part of the trunk's step in the second half: {_few(said)}; an equal share is "
            f"{words.percent(1 / count)}.",
            "Give the task more say, or compare with balance: uniform.",
            _more_say(run, small, list(lengths)),
        )


def _classes(run: RunRecord) -> Iterator[Finding]:
    """Classes that lost much more than their task."""
    assert run.results is not None
    said, tasks = [], []
    for task, result in run.results.compared.items():
        worst = [each for each in worst_classes(result) if -(each.delta or 0.0) > _chance(result, each)]
        if worst:
            named = (f"{each.name} {words.difference(each.delta, result)}" for each in worst)
            said.append(f"{task} {words.difference(result.delta, result)}, but {', '.join(named)}")
            tasks.append(task)
    if said:
        lines = [_each_class(run, task) for task in tasks[:_MOST_TASKS]]
        yield Finding(
            f"Classes that lost more than their task: {_few(said)}.",
            "The teachers know these classes better. More pictures of them help most; else show them more often, or "
            "let the teachers answer every row.",
            "\n".join(dict.fromkeys(lines)),
        )


def _foreign_rows(run: RunRecord) -> Iterator[Finding]:
    """Student and teacher agree on the task's own rows, and not on other data sets."""
    assert run.results is not None
    said, lines = [], []
    for task, result in lost_tasks(run).items():
        for source, found in run.results.cross_domain.get(task, {}).items():
            heard = teacher_weights(run.recipe, task).get(source, 1.0) > 0
            if (
                heard
                and found.agreement is not None
                and notable(result.agreement, found.agreement, found.rows)
            ):
                said.append(
                    f"{task} {words.percent(result.agreement)} on its own rows, {words.percent(found.agreement)} on "
                    f"{found.rows:,} of {source}"
                )
                lines.append(f"tasks: {{{task}: {{teacher_weight: {{{source}: 0.1}}}}}}")
    if said and _section(run, "training").get("teachers_on") != "none":
        yield Finding(
            f"Student and teacher agree less on pictures of other data sets: {_few(said)}.",
            "Its teacher is asked there about pictures unlike its own. Let it say less about them.",
            "\n".join(lines[:_MOST_TASKS]),
        )


def _labels_alone(run: RunRecord) -> Iterator[Finding]:
    """A student that learned more without teachers, where it was trained."""
    assert run.results is not None
    said, lines = [], []
    for task, worth in worth_of(run).items():
        alone = worth.labels_alone
        if alone is not None and alone.error is not None and alone.points < -alone.error:
            said.append(f"{task} {words.uncertain(alone.points, alone.error, run.results.tasks[task])}")
            lines.append(f"tasks: {{{task}: {{weights: {{soft_targets: 0.1, hint: 0}}}}}}")
    if said:
        yield Finding(
            f"Worse than the same student trained on labels alone: {_few(said)}.",
            "The labels teach more than these teachers. Let them say less, or compare with teachers_on: none.",
            "\n".join(lines[:_MOST_TASKS]),
        )


def _hints(run: RunRecord) -> Iterator[Finding]:
    """A hint that did not fall after the warm-up."""
    if run.recipe.get("schedule"):  # whose stages change the weight that is in the logged value
        return
    said, tasks = [], []
    for task in lost_tasks(run):
        curve = run.metrics.terms.get(task, {}).get("hint")
        if curve is None or len(curve.steps) < _FEWEST_LINES:
            continue
        early, late = curve.part(0.1, 0.3), curve.part(0.8)
        if len(early.steps) and early.mean > 0 and late.mean > _NOT_FALLING * early.mean:
            said.append(f"{task} {early.mean:.3g} early, {late.mean:.3g} at the end")
            tasks.append(task)
    if said:
        yield Finding(
            f"The hint did not fall: {_few(said)}.",
            "The student cannot learn this layer of the teacher. Name other layers, or leave the hint out.",
            "\n".join(f"tasks: {{{task}: {{weights: {{hint: 0}}}}}}" for task in tasks[:_MOST_TASKS]),
        )


def _clipping(run: RunRecord) -> Iterator[Finding]:
    """Gradients that are clipped in most steps, so that `clip` sets the step and not the rate."""
    clipped, norm = run.metrics.clipped, run.metrics.gradient_norm
    if not lost_tasks(run) or clipped is None or norm is None:
        return
    if (
        _section(run, "optimizer").get("name") == "muon"
    ):  # the length of its steps does not follow the gradient's
        return
    share, mean = clipped.part(0.5).mean, norm.part(0.5).mean
    if share > _OFTEN:
        clip = _number(_section(run, "training").get("clip"))
        at = "" if clip is None else f" at {clip:g}"
        yield Finding(
            f"Gradients were clipped{at} in {words.percent(share, 0)} of the steps of the second half; their norm was "
            f"{mean:.3g} on average.",
            "Clip only the outliers. If the loss then jumps, lower optimizer.lr instead.",
            f"training: {{clip: {float(f'{2 * mean:.2g}'):g}}}",
        )


def _waiting(run: RunRecord) -> Iterator[Finding]:
    """Steps that wait for their rows."""
    if (waiting := run.metrics.waiting) is None or (share := waiting.mean) <= _LONG_WAIT:
        return
    workers = _number(_section(run, "training").get("workers")) or 0
    yield Finding(
        f"Steps waited for their rows in {words.percent(share, 0)} of the time.",
        "Read with more processes, and write the shards with pictures no larger than the networks want.",
        f"training: {{workers: {max(2, round(2 * workers))}}}",
    )


_CAUSES: tuple[Callable[[RunRecord], Iterator[Finding]], ...] = (
    _still_improving,
    _rows_it_knows,
    _small_share,
    _classes,
    _foreign_rows,
    _labels_alone,
    _hints,
    _clipping,
    _waiting,
)


# ---- numbers
def _slope(curve: Curve, result: TaskResult) -> tuple[float, float]:
    """By least squares: how much better the score becomes in a step, and half of its 95 % interval."""
    count = len(curve.steps)
    steps = curve.steps - curve.steps.mean()
    spread = float(steps @ steps)
    if count < _FEWEST_LOOKS or not spread:
        return 0.0, 0.0
    slope = float(steps @ curve.values) / spread
    rest = curve.values - curve.values.mean() - slope * steps
    error = math.sqrt(float(rest @ rest) / (count - 2) / spread)
    sign = 1 if result.higher_is_better else -1
    return sign * slope, float(stdtrit(count - 2, 0.975)) * error


def _chance(result: TaskResult, of: ClassDelta) -> float:
    """Twice the standard error of the difference of two shares on as many rows as a class has on average.

    Two networks that err on the same rows differ less by chance: it is an upper bound. 0 for other scores.
    """
    if not result.in_points or of.teacher is None:
        return 0.0
    right = min(max(of.teacher / 100, 0.0), 1.0)
    rows = max(1.0, result.rows / max(1, len(result.classes or ())))
    return 200 * math.sqrt(2 * right * (1 - right) / rows)


def _away(steps: float, trained: float) -> str:
    return f"about {words.about(math.ceil(steps))} steps away" if steps < _FAR * trained else "out of reach"


def _few(texts: list[str]) -> str:
    more = f"; and {len(texts) - _MOST_TASKS} more" if len(texts) > _MOST_TASKS else ""
    return "; ".join(texts[:_MOST_TASKS]) + more


# ---- recipe lines
def _longer(run: RunRecord, more: float) -> str:
    """A run of so many more steps, at least half as long again."""
    steps = run.results.steps if run.results is not None else None
    if not steps:
        return "training: {steps: ...}"
    factor = min(max(1 + more / steps, 1.5), _LONGEST_RUN)
    training = _section(run, "training")
    epochs = _number(training.get("epochs"))
    if epochs is not None and _number(training.get("steps")) is None:
        return f"training: {{epochs: {float(f'{epochs * factor:.2g}'):g}}}"
    return f"training: {{steps: {float(f'{steps * factor:.2g}'):.0f}}}"


def _against_overfitting(run: RunRecord) -> str:
    decay = _number(_section(run, "optimizer").get("weight_decay"))
    lines = [] if decay is None else [f"optimizer: {{weight_decay: {2 * decay or 0.01:g}}}"]
    if _section(run, "training").get("teachers_on") != "all":
        lines.insert(0, "training: {teachers_on: all}")
    return "\n".join(lines) or "data: {SOURCE: {augment: {color: 0.4}}}"


def _more_say(run: RunRecord, small: Mapping[str, float], tasks: list[str]) -> str:
    """Preferences for the rules that have them, else weights of the losses."""
    rule = str(run.environment.get("balance") or _section(run, "balance").get("method"))
    method = re.search(r"\bmgda(_ub)?\b", rule)
    if method is not None:
        others = [task for task in tasks if task not in small]
        lines = ", ".join(f'"{task} >= 2 * {others[0]}"' for task in small) if others else ""
        return f"balance: {{method: {method[0]}, options: {{prefer: [{lines}]}}}}"
    weights = {task: min(10.0, 1 / len(tasks) / small[task]) if small.get(task) else 1.0 for task in tasks}
    listed = ", ".join(f"{task}: {weight:.2g}" for task, weight in weights.items())
    return f"balance: {{method: fixed, options: {{weights: {{{listed}}}}}}}"


def _each_class(run: RunRecord, task: str) -> str:
    """Every class of the task equally often where a source can, else its teacher on every row."""
    assert run.results is not None
    for source, section in _section(run, "data").items():
        labels = section.get("labels") if isinstance(section, dict) else None
        if (
            isinstance(labels, dict)
            and list(labels) == [task]
            and run.results.tasks[task].kind == "classification"
        ):
            return f"data: {{{source}: {{class_balance: true}}}}"
    if _section(run, "training").get("teachers_on") != "all":
        return "training: {teachers_on: all}"
    return f"tasks: {{{task}: {{weights: {{soft_targets: 2}}}}}}"


def _section(run: RunRecord, name: str) -> Mapping[str, Any]:
    """Of a recipe that was read without being checked."""
    section = run.recipe.get(name)
    return section if isinstance(section, dict) else {}


def _number(value: Any) -> float | None:
    """A positive number of a recipe that was read without being checked."""
    right = isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
    return float(value) if right and value > 0 else None
