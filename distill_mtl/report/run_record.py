"""The data of a report: a run folder, read, with metrics.jsonl as curves; or a result alone.

No teacher, no student and no data is opened.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from distill_mtl.errors import UserError, a_few
from distill_mtl.evaluation.result import Evaluation
from distill_mtl.reading import Remedy, read_text
from distill_mtl.recipe.yaml_reader import parse_yaml
from distill_mtl.report.pictures import Gallery, read_gallery
from distill_mtl.run_files import RunFiles
from distill_mtl.run_notes import (
    ResolvedRecipe,
    read_environment,
    read_exports,
    read_metrics_lines,
    read_teachers,
)

_RECIPE = Remedy(
    "It is what the run wrote: name another run folder, or start the run again with --overwrite."
)
_POINTS = 240
"""More points than a chart has pixels would only make a page large."""


@dataclass(frozen=True)
class Curve:
    """Values over steps.

    Attributes:
        steps: float64 [N], ascending.
        values: float64 [N], finite.
    """

    steps: NDArray[np.float64]
    values: NDArray[np.float64]

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    def part(self, begin: float, end: float = 1.0) -> "Curve":
        """The points between two shares of its last step."""
        last = self.steps[-1] if len(self.steps) else 0.0
        here = (self.steps >= begin * last) & (self.steps <= end * last)
        return Curve(self.steps[here], self.values[here])

    def thinned(self) -> "Curve":
        """At most `_POINTS` points, each the mean of neighbours."""
        if len(self.steps) <= _POINTS:
            return self
        parts = np.array_split(np.arange(len(self.steps)), _POINTS)
        return Curve(
            np.array([self.steps[part].mean() for part in parts]),
            np.array([self.values[part].mean() for part in parts]),
        )


@dataclass(frozen=True)
class Metrics:
    """The log of a run; empty without one.

    Attributes:
        last_step: of the log.
        terms: task -> term ("total", "supervised", …, the gate's "gated") -> curve.
        weights: task -> the balancer's weight.
        cosines: pair of tasks -> cosine of their gradients.
        norm: length of the balanced direction.
        harmed: share of the tasks that a step would hurt, where it was measured.
        lengths: task -> length of its part of the balanced direction.
        validation: task -> score on some validation rows in the last part of the run.
        gradient_norm: before clipping, the mean of a few steps.
        clipped: share of the steps whose gradients were clipped.
        waiting: share of the time in which steps waited for rows.
    """

    last_step: int = 0
    terms: dict[str, dict[str, Curve]] = field(default_factory=dict)
    weights: dict[str, Curve] = field(default_factory=dict)
    cosines: dict[str, Curve] = field(default_factory=dict)
    norm: Curve | None = None
    harmed: Curve | None = None
    lengths: dict[str, Curve] = field(default_factory=dict)
    validation: dict[str, Curve] = field(default_factory=dict)
    gradient_norm: Curve | None = None
    clipped: Curve | None = None
    waiting: Curve | None = None


@dataclass(frozen=True)
class RunRecord:
    """One run, or a comparison of two models, which has results only.

    Attributes:
        results: the comparison; None while the run is not finished.
        label: its name in a comparison of runs.
        files: its folder; None: there is none.
        recipe_text: the resolved recipe of the folder.
        teachers: teachers.json.
        environment: environment.json; empty where the run wrote none.
        metrics: what was logged.
        gallery: pictures of rows; None where there are none.
        exports: certificates of the exported files in its folder.
    """

    results: Evaluation | None
    label: str = ""
    files: RunFiles | None = None
    recipe_text: str = ""
    teachers: dict[str, dict[str, Any]] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=Metrics)
    gallery: Gallery | None = None
    exports: list[dict[str, Any]] = field(default_factory=list)

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe's content."""
        where = str(self.files.recipe) if self.files else "recipe"
        content: dict[str, Any] = (
            parse_yaml(self.recipe_text, ResolvedRecipe, where, remedy=_RECIPE) if self.recipe_text else {}
        )
        return content

    @property
    def name(self) -> str:
        """The recipe's name, or the folder's."""
        return str(self.recipe.get("name") or (self.files.path.resolve().name if self.files else self.label))

    @property
    def tasks(self) -> list[str]:
        """In the recipe's order."""
        return list(self.recipe.get("tasks") or {})


def read_run(folder: Path, label: str | None = None) -> RunRecord:
    """Read a run folder, finished or not.

    Raises:
        UserError: it holds no run, or a file of it is not what a run writes.
    """
    files = RunFiles(folder)
    if not os.path.exists(files.recipe):
        inside = folder.glob(f"seed-*/{files.recipe.name}") if os.path.isdir(folder) else ()
        seeds = sorted(str(path.parent) for path in inside)
        mend = (
            f"It holds runs of several seeds: give {a_few(seeds, 3)}"
            if seeds
            else "Give a folder like runs/NAME"
        )
        raise UserError(f"{folder} is not a run folder: it has no {files.recipe.name}. {mend}.")
    return RunRecord(
        label=label or folder.resolve().name,
        files=files,
        recipe_text=read_text(files.recipe, remedy=_RECIPE),
        teachers=read_teachers(files.teachers),
        environment=read_environment(files.environment),
        metrics=read_metrics(files.metrics),
        results=Evaluation.read(files.results) if files.results.exists() else None,
        gallery=read_gallery(files.examples),
        exports=read_exports(files.exports),
    )


class _Points:
    """Collects a curve."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.values: list[float] = []

    def add(self, step: float, value: float | None) -> None:
        if value is not None and np.isfinite(value):
            self.steps.append(step)
            self.values.append(value)

    def curve(self) -> Curve | None:
        return Curve(np.array(self.steps), np.array(self.values)) if self.steps else None


def read_metrics(path: Path) -> Metrics:
    """The curves of a log; a half-written last line, as a kill leaves it, is left out."""
    lines = read_metrics_lines(path)
    by_task: dict[str, dict[str, Curve]] = {}
    for (task, term), curve in _curves(lines, _terms).items():
        by_task.setdefault(task, {})[term] = curve
    alone = _curves(lines, lambda line: {key: line.get(key) for key in _ALONE})
    return Metrics(
        last_step=lines[-1]["step"] if lines else 0,
        weights={
            f"{term.partition('/')[2]}/{task}".lstrip("/"): named.pop(term)
            for task, named in by_task.items()
            for term in list(named)
            if term.partition("/")[0] == "weight"
        },
        terms=by_task,
        cosines=_curves(lines, lambda line: line["cosines"]),
        lengths=_curves(lines, lambda line: line.get("lengths") or {}),
        validation=_curves(lines, lambda line: line.get("validation") or {}),
        **alone,
    )


def _terms(line: dict[str, Any]) -> dict[tuple[str, str], float | None]:
    return {(task, term): value for task, named in line["tasks"].items() for term, value in named.items()}


_ALONE = ("norm", "harmed", "gradient_norm", "clipped", "waiting")
_Key = TypeVar("_Key")


def _curves(
    lines: list[dict[str, Any]], values_of: Callable[[dict[str, Any]], Mapping[_Key, float | None]]
) -> dict[_Key, Curve]:
    """Curves by what lines call their values; those without a finite value are left out."""
    points: dict[_Key, _Points] = {}
    for line in lines:
        for key, value in values_of(line).items():
            points.setdefault(key, _Points()).add(line["step"], value)
    return {key: curve for key, found in points.items() if (curve := found.curve()) is not None}
