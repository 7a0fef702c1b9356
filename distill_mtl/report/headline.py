"""The finding of a run in one sentence, and what to do where it is not what one hoped for."""

import math
from collections.abc import Mapping

from distill_mtl.evaluation.result import Evaluation, TaskResult
from distill_mtl.report import words
from distill_mtl.report.blocks import Figure, Tone
from distill_mtl.report.run_record import Run

_ROUNDING = 1e-9


def judged(results: Evaluation) -> dict[str, TaskResult]:
    """The tasks that have a teacher."""
    return {task: score for task, score in results.tasks.items() if score.delta is not None}


def by_interval(results: Evaluation) -> bool:
    """Whether the interval decides, and not the difference alone."""
    return results.acceptance.rule == "interval"


def outcome(score: TaskResult, *, interval: bool) -> Tone:
    """good: as good as its teacher within the margin; bad: not; unsure: nobody can say yet."""
    if score.delta is None:
        return ""
    if interval and score.verdict is not None:
        return _TONES[score.verdict]
    return "good" if score.delta >= -score.margin - _ROUNDING else "bad"


_TONES: dict[str, Tone] = {"non-inferior": "good", "inferior": "bad", "undecided": "unsure"}


def headline(run: Run) -> tuple[str, Tone]:
    """The sentence, and its tone."""
    results = run.results
    if results is None:
        return _unfinished(run), "unsure"
    scores = judged(results)
    if not scores:
        tasks = words.counted(len(results.tasks), "task")
        return f"One student for {tasks}, trained on labels alone: no teacher to compare it with.", ""
    tones = {task: outcome(score, interval=by_interval(results)) for task, score in scores.items()}
    behind = [task for task, tone in tones.items() if tone == "bad"]
    open_ = [task for task, tone in tones.items() if tone == "unsure"]
    if behind:
        return f"Not yet: {_behind(scores, behind)}{_rest(scores, behind, open_)}.", "bad"
    teachers = words.counted(len(scores), "teacher")
    if open_:
        kept = [task for task in scores if task not in open_]
        as_good = f"as good in {words.listed(kept)}, " if kept else ""
        return (
            f"Undecided: one student for {teachers}, {as_good}but the test rows cannot tell for "
            f"{words.listed(open_)}.",
            "unsure",
        )
    return f"One student replaces {teachers}: {_as_good(scores)}{_saved(results)}.", "good"


def advice(run: Run) -> list[str]:
    """What would decide a task, what would mend it; where a run is not finished, how to go on."""
    results = run.results
    if results is None:
        return [f"Go on with --resume --out {run.files.path}; the comparison is made at the end."]
    found, needed = [], []
    interval = by_interval(results)
    for task, score in judged(results).items():
        tone = outcome(score, interval=interval)
        if tone == "unsure":
            found.append(f"{task}: {_more_rows(score)}")
        elif tone == "bad":
            needed.append(f"{_sufficient(score, interval=interval)} in {task}")
    if needed:
        found.append(
            "Train longer (training.steps) or take a larger student; accepted as it is with a margin of "
            f"{words.listed(needed)} (acceptance)."
        )
    return found


def figures(results: Evaluation | None) -> list[Figure]:
    """What the student takes of what its teachers take."""
    if results is None or results.cost.teachers is None:
        return []
    mine, theirs = results.cost.student, results.cost.teachers
    pairs = (
        ("of the parameters", mine.parameters, theirs.parameters),
        ("of the FLOPs", mine.flops, theirs.flops),
        ("of the latency", mine.latency_ms, theirs.latency_ms),
        ("the rows per second", mine.rows_per_second, theirs.rows_per_second),
        ("of the bytes", mine.bytes, theirs.bytes),
    )
    ratios = {what: words.ratio(one, other) for what, one, other in pairs}
    return [Figure(text, what) for what, text in ratios.items() if text != words.NONE]


def _unfinished(run: Run) -> str:
    total = (run.recipe.get("training") or {}).get("steps")
    of = f" of {total:,}" if total else ""
    return f"Not finished: step {run.metrics.last_step:,}{of}, nothing is compared yet."


def _as_good(scores: Mapping[str, TaskResult]) -> str:
    margins = {words.margin(score) for score in scores.values()}
    within = f"margin {margins.pop()}" if len(margins) == 1 else "each within its margin"
    if len(scores) == 1:
        return f"as good in {next(iter(scores))} ({within})"
    both = "both" if len(scores) == 2 else f"all {len(scores)}"
    return f"as good in {both} tasks ({within})"


def _saved(results: Evaluation) -> str:
    if results.cost.teachers is None:
        return ""
    mine, theirs = results.cost.student, results.cost.teachers
    parameters = words.ratio(mine.parameters, theirs.parameters)
    latency = words.ratio(mine.latency_ms, theirs.latency_ms)
    if parameters == words.NONE:
        return f", at {latency} the latency"
    return f", at {parameters} the parameters and {latency} the latency"


def _behind(scores: Mapping[str, TaskResult], tasks: list[str]) -> str:
    """The worst ones by name: so many margins behind their teachers."""
    worst = sorted(tasks, key=lambda task: (scores[task].delta or 0.0) / (scores[task].margin or 1.0))[:3]
    named = [f"{_distance(scores[task])} in {task}" for task in worst]
    hidden = len(tasks) - len(worst)
    if hidden:
        named.append(f"more in {words.counted(hidden, 'other task')}")
    teacher = "its teacher" if len(tasks) == 1 else "its teachers"
    return f"the student falls behind {teacher} by {words.listed(named)}"


def _distance(score: TaskResult) -> str:
    size = words.difference(score.delta, score).lstrip("−")
    return f"{size} points" if score.in_points else f"{size} of {score.metric}"


def _rest(scores: Mapping[str, TaskResult], behind: list[str], open_: list[str]) -> str:
    kept = len(scores) - len(behind) - len(open_)
    parts = []
    if kept:
        parts.append(f"as good in {kept} of {len(scores)} tasks")
    if open_:
        parts.append(f"undecided in {words.listed(open_)}")
    return f"; {', '.join(parts)}" if parts else ""


def _more_rows(score: TaskResult) -> str:
    if score.rows_to_decide is None:
        return "more labelled test rows would decide, or `acceptance: point` for a small test set."
    return f"about {words.about(score.rows_to_decide)} more labelled test rows would decide."


def _sufficient(score: TaskResult, *, interval: bool) -> str:
    """The margin with which the task would have been accepted, rounded up."""
    assert score.delta is not None
    needed = -(score.ci95[0] if interval and score.ci95 is not None else score.delta)
    if not score.in_points:
        return f"{needed:.3g}"
    return words.points(math.ceil(10 * needed) / 10)
