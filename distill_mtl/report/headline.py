"""The finding in one sentence: as the console says it (`verdict`), as the page does (`headline`), and what to do next.

The console's sentence holds tasks against their margins, the page's says what one student replaces.
"""

import math
from collections.abc import Mapping

from distill_mtl.evaluation.result import Evaluation, TaskResult
from distill_mtl.evaluation.verdict import Decision
from distill_mtl.recipe.schema import task_of
from distill_mtl.report import words
from distill_mtl.report.blocks import Figure, Text, Tone
from distill_mtl.report.run_record import RunRecord

_SLICES_NAMED = 3
_TONES: dict[Decision | None, Tone] = {
    "non-inferior": "good",
    "inferior": "bad",
    "undecided": "unsure",
    None: "",
}


def tone_of(result: TaskResult) -> Tone:
    """good: as good as its teacher within the margin; bad: not; unsure: undecided; else no teacher."""
    return _TONES[result.verdict]


def title(evaluation: Evaluation) -> str:
    """The comparison and its rows."""
    rows = f"{evaluation.split} rows" if evaluation.split is not None else "all rows"
    if not evaluation.compared:
        return f"Scores on {rows}"
    if evaluation.student is not None:
        return f"{evaluation.student} (student) against {evaluation.against} (teacher), {rows}"
    return f"Student against teachers, {rows}"


def verdict(evaluation: Evaluation) -> Text:
    """✓ for accepted, ✗ where a task is inferior, ? where tasks are only undecided, – for nothing to judge."""
    compared = evaluation.compared
    if not compared:
        return Text("– nothing to judge: no task has a teacher", tone="quiet")
    by_interval = evaluation.acceptance.rule == "interval"
    judged = compared | evaluation.judged_slices
    lost = {task: result for task, result in judged.items() if result.verdict == "inferior"}
    open_ones = {task: result for task, result in judged.items() if result.verdict == "undecided"}
    if not lost and not open_ones:
        how = ", by its 95 % interval" if by_interval else ""
        return Text(f"✓ accepted: no task lost {_kept(compared)}{how}", tone="good")
    parts = []
    if lost:
        named = (
            f"{task} {words.difference(result.delta, result)} (allowed {words.difference(-result.margin, result)})"
            for task, result in lost.items()
        )
        parts.append(("inferior: " if by_interval else "") + ", ".join(named))
    if open_ones:
        parts.append(f"undecided: {_undecided(open_ones)}")
    said = f"{'✗ not accepted' if lost else '? not accepted yet'}: {'; '.join(parts)}"
    return Text(said, tone="bad" if lost else "unsure")


def hidden_losses(evaluation: Evaluation) -> str:
    """The line under the verdict: slices with a loss that the mean hides, the worst by name; empty without any."""
    found = evaluation.hidden_losses
    if not found:
        return ""
    named = [
        f"{name} {words.difference(one.delta, one)} ({words.interval(one.ci95, one)}, {words.counted(one.rows, 'row')})"
        for name, one in list(found.items())[:_SLICES_NAMED]
    ]
    more = f"; and {len(found) - len(named)} more" if len(found) > len(named) else ""
    return f"! The mean hides a loss: {'; '.join(named)}{more}."


def headline(run: RunRecord) -> tuple[str, Tone]:
    """The sentence on top of the page, and its tone."""
    results = run.results
    if results is None:
        return _unfinished(run), "unsure"
    compared = results.compared
    if not compared:
        tasks = words.counted(len(results.tasks), "task")
        return f"One student for {tasks}, trained on labels only: no teacher to compare it with.", ""
    judged = compared | results.judged_slices
    behind = [task for task, result in judged.items() if result.verdict == "inferior"]
    open_ones = [task for task, result in judged.items() if result.verdict == "undecided"]
    if behind:
        return f"Not yet: {_behind(judged, behind)}{_rest(compared, behind, open_ones)}.", "bad"
    teachers = words.counted(results.teacher_count, "teacher")
    if open_ones:
        kept = [task for task in compared if task not in open_ones]
        as_good = f"as good in {words.listed(kept)}, " if kept else ""
        return (
            f"Undecided: one student for {teachers}, {as_good}but the test rows cannot tell for "
            f"{words.listed(open_ones)}.",
            "unsure",
        )
    return f"One student replaces {teachers}: {_as_good(compared)}{_saved(results)}.", "good"


def advice(run: RunRecord) -> list[str]:
    """What would decide or improve a task; for an unfinished run, how to continue."""
    results = run.results
    if results is None:
        return (
            [f"Continue with --resume --out {run.files.path}; the comparison is made at the end."]
            if run.files
            else []
        )
    found, needed = [], []
    by_interval = results.acceptance.rule == "interval"
    for task, result in (results.compared | results.judged_slices).items():
        if result.verdict == "undecided":
            found.append(f"{task}: {_more_rows(result)}")
        elif result.verdict == "inferior":
            needed.append(f"{_sufficient(result, by_interval=by_interval)} in {task}")
    if needed:
        found.append(
            "Train longer (training.steps) or take a larger student; accepted as it is with a margin of "
            f"{words.listed(needed)} (acceptance)."
        )
    return found


def figures(results: Evaluation | None) -> list[Figure]:
    """The student's cost relative to that of its teachers."""
    if results is None or results.cost.teachers is None:
        return []
    mine, theirs = results.cost.student, results.cost.teachers
    timed = (
        ("of the latency", mine.latency_ms, theirs.latency_ms),
        ("the rows per second", mine.rows_per_second, theirs.rows_per_second),
    )
    pairs = (
        ("of the parameters", mine.parameters, theirs.parameters),
        ("of the FLOPs", mine.flops, theirs.flops),
        *(timed if results.cost.steady else ()),
        ("of the bytes", mine.bytes, theirs.bytes),
    )
    ratios = {what: words.ratio(one, other) for what, one, other in pairs}
    return [Figure(text, what) for what, text in ratios.items() if text != words.NONE]


def _kept(results: Mapping[str, TaskResult]) -> str:
    """How much no task lost."""
    margins = {result.margin for result in results.values()}
    alike = len(margins) == 1 and all(result.in_points for result in results.values())
    return f"more than {words.points(margins.pop())}" if alike else "more than its margin"


def _undecided(results: Mapping[str, TaskResult]) -> str:
    """`left (about 1,200 more rows would decide), right (about 300 more), depth (it lies on the margin)`."""
    texts, what = [], " rows would decide"
    for task, result in results.items():
        if result.unmeasured:
            texts.append(f"{task} (its labels do not measure it)")
        elif result.delta is None:
            texts.append(f"{task} (too few rows to score)")
        elif result.rows_to_decide is None:
            why = "all its rows are of one group" if result.ci95 is None else "it lies on the margin"
            texts.append(f"{task} ({why})")
        else:
            texts.append(f"{task} (about {words.about(result.rows_to_decide)} more{what})")
            what = ""
    return ", ".join(texts)


def _unfinished(run: RunRecord) -> str:
    total = (run.recipe.get("training") or {}).get("steps")
    of = f" of {total:,}" if total else ""
    return f"Not finished: step {run.metrics.last_step:,}{of}, nothing is compared yet."


def _as_good(results: Mapping[str, TaskResult]) -> str:
    margins = {words.margin(result) for result in results.values()}
    within = f"margin {margins.pop()}" if len(margins) == 1 else "each within its margin"
    if any(task_of(name) != name for name in results):
        return f"as good as each of them ({within})"
    if len(results) == 1:
        return f"as good in {next(iter(results))} ({within})"
    both = "both" if len(results) == 2 else f"all {len(results)}"
    return f"as good in {both} tasks ({within})"


def _saved(results: Evaluation) -> str:
    if results.cost.teachers is None:
        return ""
    mine, theirs = results.cost.student, results.cost.teachers
    shares = {"parameters": words.ratio(mine.parameters, theirs.parameters)}
    if results.cost.steady:
        shares["latency"] = words.ratio(mine.latency_ms, theirs.latency_ms)
    said = [f"{share} the {what}" for what, share in shares.items() if share != words.NONE]
    return f", at {words.listed(said)}" if said else ""


def _behind(results: Mapping[str, TaskResult], tasks: list[str]) -> str:
    """The worst ones by name: so many margins behind their teachers."""
    worst = sorted(tasks, key=lambda task: (results[task].delta or 0.0) / (results[task].margin or 1.0))[:3]
    named = [f"{_distance(results[task])} in {task}" for task in worst]
    hidden = len(tasks) - len(worst)
    if hidden:
        named.append(f"more in {words.counted(hidden, 'other task')}")
    teacher = "its teacher" if len(tasks) == 1 else "its teachers"
    return f"the student falls behind {teacher} by {words.listed(named)}"


def _distance(result: TaskResult) -> str:
    size = words.difference(result.delta, result).lstrip("−")
    return f"{size} points" if result.in_points else f"{size} of {result.metric}"


def _rest(results: Mapping[str, TaskResult], behind: list[str], open_ones: list[str]) -> str:
    kept = sum(result.verdict == "non-inferior" for result in results.values())
    parts = []
    if kept:
        parts.append(f"as good in {kept} of {len(results)} tasks")
    if open_ones:
        parts.append(f"undecided in {words.listed(open_ones)}")
    return f"; {', '.join(parts)}" if parts else ""


def _more_rows(result: TaskResult) -> str:
    if result.delta is None:
        return f"more labelled test rows of it are needed; it has {result.rows:,}."
    if result.unmeasured:
        return "its labels do not measure it. Test rows with labels of more classes would."
    if result.rows_to_decide is None:
        return "more labelled test rows would decide, or `acceptance: point` for a small test set."
    return f"about {words.about(result.rows_to_decide)} more labelled test rows would decide."


def _sufficient(result: TaskResult, *, by_interval: bool) -> str:
    """The margin with which the task would have been accepted, rounded up."""
    assert result.delta is not None
    needed = -(result.ci95[0] if by_interval and result.ci95 is not None else result.delta)
    if not result.in_points:
        return f"{needed:.3g}"
    return words.points(math.ceil(10 * needed) / 10)
