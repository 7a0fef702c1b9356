"""The sections of a report, each a function from a run to its blocks: a new one is a function in one file here.

`@section(position)` makes a function known; modules of this folder are imported when the first report is made. The
functions in scores.py come first on the page, findings.py last.
"""

import importlib
import pkgutil
from collections.abc import Callable

from distill_mtl.report.blocks import Section
from distill_mtl.report.run_record import RunRecord

BuildSection = Callable[[RunRecord], Section | None]
"""Builds one section of a report; None if the run has nothing for it."""
_SECTIONS: list[tuple[float, BuildSection]] = []


def section(position: float) -> Callable[[BuildSection], BuildSection]:
    """Function decorator: put what it builds on every report, at a place between other sections' positions."""

    def add(build: BuildSection) -> BuildSection:
        _SECTIONS.append((position, build))
        return build

    return add


def sections_of(run: RunRecord) -> list[Section]:
    """The sections of a run, in the order of the page."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    ordered = sorted(_SECTIONS, key=lambda entry: entry[0])
    return [built for _, build in ordered if (built := build(run)) is not None]
