"""metrics.jsonl as curves: steps and values by what was measured."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_POINTS = 240
"""More of them than a chart has pixels to tell apart only make a page large."""


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
    """What a run logged; empty where it logged nothing.

    Attributes:
        last_step: of the log.
        terms: task -> term ("total", "supervised", …, the gate's "gated") -> curve.
        weights: task -> the balancer's weight.
        cosines: pair of tasks -> cosine of their gradients.
        norm: length of the balanced direction.
        harmed: share of the tasks that a step would hurt, where it was measured.
    """

    last_step: int = 0
    terms: dict[str, dict[str, Curve]] = field(default_factory=dict)
    weights: dict[str, Curve] = field(default_factory=dict)
    cosines: dict[str, Curve] = field(default_factory=dict)
    norm: Curve | None = None
    harmed: Curve | None = None


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
    lines = _lines(path)
    terms: dict[tuple[str, str], _Points] = {}
    cosines: dict[str, _Points] = {}
    norm, harmed = _Points(), _Points()
    for line in lines:
        step = line["step"]
        for task, named in line["tasks"].items():
            for term, value in named.items():
                terms.setdefault((task, term), _Points()).add(step, value)
        for pair, value in line["cosines"].items():
            cosines.setdefault(pair, _Points()).add(step, value)
        norm.add(step, line["norm"])
        harmed.add(step, line.get("harmed"))
    by_task: dict[str, dict[str, Curve]] = {}
    for (task, term), points in terms.items():
        if (curve := points.curve()) is not None:
            by_task.setdefault(task, {})[term] = curve
    return Metrics(
        last_step=lines[-1]["step"] if lines else 0,
        weights={task: named.pop("weight") for task, named in by_task.items() if "weight" in named},
        terms=by_task,
        cosines={pair: curve for pair, points in cosines.items() if (curve := points.curve()) is not None},
        norm=norm.curve(),
        harmed=harmed.curve(),
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    found = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return found
