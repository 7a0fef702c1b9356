"""The runs that forecasts learn from and are judged by: those of the merge bench, and those of this machine.

`measured.json` is written by `benchmarks/forecasts.py --write`. `forecasts.jsonl` lies in a folder of runs: it has a
line for each forecast, and one more, with what came out, for each run that was forecast and has ended.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ConfigDict, Field, PositiveFloat, PositiveInt, TypeAdapter
from pydantic.dataclasses import dataclass

from distill_mtl.evaluation.forecast.law import Case, Features, error_of, log_ratio
from distill_mtl.evaluation.result import Evaluation, TaskResult
from distill_mtl.files import write_text
from distill_mtl.reading import Remedy, loads, parse_json, read_json, read_text
from distill_mtl.recipe import Recipe, dump_recipe
from distill_mtl.system_errors import naming

FILE = "forecasts.jsonl"
_MEASURED = Path(__file__).with_name("measured.json")
_PART = ConfigDict(extra="forbid", allow_inf_nan=False)
_LONGEST = 1 << 26  # bytes
_REMEDY = Remedy("Delete that line, or the file: it only says how forecasts did.")


@dataclass(frozen=True, kw_only=True, config=_PART)
class ForecastTask:
    """One task of a forecast.

    Attributes:
        metric: name of the score.
        passes, size: as in `Features`.
        error: of the teacher, on the test rows, in the score's unit.
        delta: forecast of student minus teacher, positive where the student is better.
        low, high: ends of its 80 % interval.
        outcome: what the finished run measured; None: it has not finished.
        change: as in `Case`.
    """

    metric: str
    passes: PositiveFloat
    size: PositiveFloat
    error: PositiveFloat
    delta: float
    low: float
    high: float
    outcome: float | None = None
    change: float | None = None

    @property
    def held(self) -> bool:
        """Whether the interval holds the outcome."""
        return self.outcome is not None and self.low <= self.outcome <= self.high


@dataclass(frozen=True, kw_only=True, config=_PART)
class Line:
    """One line of forecasts.jsonl.

    Attributes:
        recipe: digest of the recipe with all its defaults.
        written: when, in ISO's form.
        merge: digest of the teachers.
        steps: of the run.
        run: its folder, where it has finished; None: a forecast.
        tasks: by name; of a finished run those that were forecast.
    """

    recipe: str
    written: str
    merge: str
    steps: PositiveInt
    run: str | None = None
    tasks: dict[str, ForecastTask] = Field(default_factory=dict)


def digest_of(recipe: Recipe) -> str:
    """By which a run finds the forecast that was made for it: of the recipe with its defaults, as it was loaded."""
    return hashlib.sha256(dump_recipe(recipe).encode()).hexdigest()


def merge_of(teachers: Mapping[str, str]) -> str:
    """What runs of the same teachers have in common; from the sha256 of each."""
    return hashlib.sha256(json.dumps(sorted(teachers.values())).encode()).hexdigest()[:16]


def now() -> str:
    """The time, as lines have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class ForecastTable:
    """forecasts.jsonl of a folder of runs.

    Args:
        runs: the folder; neither it nor the file need exist.

    Attributes:
        path: of the file.
    """

    def __init__(self, runs: Path) -> None:
        self.path = runs / FILE

    def lines(self) -> list[Line]:
        """Oldest first; a half-written last one, as a full disk leaves it, is left out.

        Raises:
            UserError: a line is not what this program writes.
        """
        return [
            parse_json(text, Line, f"{self.path}, line {number}", remedy=_REMEDY)
            for number, text in enumerate(self._texts(), 1)
        ]

    def append(self, line: Line) -> None:
        """Add a line.

        Raises:
            WriteError: the disk is full, or the like.
        """
        texts = self._texts()
        if self.path.exists() and self.path.stat().st_size != sum(len(text.encode()) + 1 for text in texts):
            write_text(self.path, "".join(f"{text}\n" for text in texts))  # without the half of a line
        with naming(self.path, every=True):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(TypeAdapter(Line).dump_json(line, exclude_none=True).decode() + "\n")

    def _texts(self) -> list[str]:
        """The whole lines of the file."""
        if not self.path.exists():
            return []
        texts = read_text(self.path, _LONGEST, remedy=_REMEDY).rstrip("\n").split("\n")
        try:
            loads(texts[-1])
        except ValueError:
            texts.pop()
        return texts

    def note_outcome(self, recipe: str, run: Path, evaluation: Evaluation) -> Line | None:
        """Add what a finished run measured beside what was forecast for its recipe.

        Returns:
            The line. None: nothing was forecast, or a run of the recipe has ended before, which a forecast may have
            known.

        Raises:
            UserError: the file cannot be read or written.
        """
        made = [line for line in self.lines() if line.recipe == recipe]
        if not made or any(line.run is not None for line in made):
            return None
        tasks = {
            task: with_outcome(forecast, evaluation.tasks[task])
            for task, forecast in made[-1].tasks.items()
            if task in evaluation.tasks and evaluation.tasks[task].delta is not None
        }
        line = replace(made[-1], written=now(), run=str(run), tasks=tasks)
        self.append(line)
        return line


def with_outcome(forecast: ForecastTask, result: TaskResult) -> ForecastTask:
    """The forecast with what came out."""
    return replace(forecast, outcome=result.delta, change=change_of(result))


def change_of(result: TaskResult) -> float | None:
    """`Case.change` of a result; None: a score is perfect, or there is no teacher."""
    if result.teacher is None:
        return None
    student, teacher = (
        error_of(score, higher_is_better=result.higher_is_better, in_points=result.in_points)
        for score in (result.student, result.teacher)
    )
    return log_ratio(student, teacher)


def finished(lines: Sequence[Line]) -> list[ForecastTask]:
    """The tasks that were forecast, and came out."""
    return [
        task
        for line in lines
        if line.run is not None
        for task in line.tasks.values()
        if task.outcome is not None
    ]


def cases_of(lines: Sequence[Line]) -> list[Case]:
    """What a law learns from finished runs that were forecast."""
    return [
        Case(
            merge=line.merge,
            task=name,
            features=Features(passes=task.passes, size=task.size),
            change=task.change,
        )
        for line in lines
        if line.run is not None
        for name, task in line.tasks.items()
        if task.change is not None and math.isfinite(task.change)
    ]


_Row = tuple[str, str, PositiveFloat, PositiveFloat, float]


def measured_cases(path: Path = _MEASURED) -> list[Case]:
    """The finished runs of the merge bench, which come with the package."""
    rows: list[_Row] = read_json(path, dict[str, list[_Row]])["cases"]
    return [
        Case(merge=merge, task=task, features=Features(passes=passes, size=size), change=change)
        for merge, task, passes, size, change in rows
    ]


def write_measured(cases: Sequence[Case], path: Path = _MEASURED) -> None:
    """Write what `measured_cases` reads: merge, task, passes, size and change of each."""
    lines = [
        json.dumps(
            [
                *(case.merge, case.task, _rounded(case.features.passes)),
                *(_rounded(case.features.size), _rounded(case.change)),
            ]
        )
        for case in cases
    ]
    write_text(path, '{"cases": [\n' + ",\n".join(lines) + "\n]}\n")


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
