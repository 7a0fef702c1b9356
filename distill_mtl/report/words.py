"""Formatting of numbers, the same on the console, in Markdown and on the page."""

import math
from collections.abc import Sequence

from distill_mtl.evaluation.result import TaskResult

NONE = "–"
NOT_KNOWN = "not known"
_BRIEF = 20
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def score(value: float | None, task: TaskResult) -> str:
    """A score of the task: to a hundredth of a point, or of a unit to four digits of the student's score.

    Nothing for a task that its labels do not measure.
    """
    return NONE if value is None or task.unmeasured else f"{value:.{_places(task)}f}"


def difference(value: float | None, task: TaskResult) -> str:
    """A signed difference of two scores, in the digits of the task's score."""
    if value is None or task.unmeasured:
        return NONE
    text = f"{value:+.{_places(task)}f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")


def uncertain(value: float, error: float | None, task: TaskResult) -> str:
    """A signed difference of two scores with half of its interval, where that is known."""
    text = difference(value, task)
    return text if error is None or text == NONE else f"{text} ± {score(error, task)}"


def interval(ends: tuple[float, float] | None, task: TaskResult) -> str:
    """Both ends, signed."""
    return NONE if ends is None or task.unmeasured else " … ".join(difference(end, task) for end in ends)


def percent(share: float | None, places: int = 1) -> str:
    """A share in [0, 1]."""
    return NONE if share is None else f"{100 * share:.{places}f} %"


def short(value: float | None, unit: str = "") -> str:
    """Three digits that matter, with a prefix: 11.5 M."""
    if value is None:
        return NOT_KNOWN
    for size, prefix in _PREFIXES:
        if abs(value) >= size:
            return f"{three_digits(value / size)} {prefix}{unit}"
    return f"{three_digits(value)} {unit}".strip()


def three_digits(value: float) -> str:
    """Three digits that matter, thousands kept whole."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def ratio(mine: float | None, theirs: float | None) -> str:
    """mine / theirs, as 0.34×."""
    return f"{three_digits(mine / theirs)}×" if mine is not None and theirs else NONE


def margin(task: TaskResult) -> str:
    """1 point; 0.2 where the labels have a unit of their own."""
    return points(task.margin) if task.in_points else f"{task.margin:g}"


def points(value: float) -> str:
    """1 point, 2 points."""
    return f"{value:g} point" + ("" if value == 1 else "s")


def counted(number: int, noun: str) -> str:
    """1 task, 3 tasks."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def about(rows: int) -> str:
    """A number of rows to two digits that matter, rounded up: 9,305 is about 9,400."""
    step = 10 ** max(0, math.floor(math.log10(rows)) - 1)
    return f"{math.ceil(rows / step) * step:,}"


def listed(names: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def brief(name: str, longest: int = _BRIEF) -> str:
    """A name where there is little room, its end kept: names of runs and paths differ there."""
    return name if len(name) <= longest else f"…{name[1 - longest :]}"


def duration(seconds: float) -> str:
    """4:07 min, 1:02:30 h, 12 s."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d} h" if hours else f"{minutes}:{rest:02d} min"


def metric(task: TaskResult) -> str:
    """Its name, with an arrow where less is better."""
    return task.metric if task.higher_is_better else f"{task.metric} ↓"


def _places(task: TaskResult) -> int:
    if task.in_points or not task.student:
        return 2
    return max(0, 3 - math.floor(math.log10(abs(task.student))))
