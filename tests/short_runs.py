"""Runs without what other tests look at: blank charts, networks timed in few passes, hints calibrated on few rows."""

from collections.abc import Callable
from typing import Any, TextIO

from matplotlib.figure import Figure

from distill_mtl.evaluation import cost
from distill_mtl.jobs import distill

CALIBRATION_ROWS = 96


def shorten(change: Callable[[Any, str, Any], None] = setattr) -> None:
    """`monkeypatch.setattr` changes it for a test; alone, for the rest of a process that a test started."""
    for place, name, value in (
        (cost, "_TIMED_RUNS", 2),
        (cost, "_SEARCH_RUNS", 1),
        (distill, "CALIBRATION_ROWS", CALIBRATION_ROWS),
        (Figure, "savefig", _blank),
    ):
        assert hasattr(place, name), f"{place} has another name for {name} now"
        change(place, name, value)


def _blank(figure: Figure, to: TextIO, **options: Any) -> None:
    to.write('<svg xmlns="http://www.w3.org/2000/svg"/>')
