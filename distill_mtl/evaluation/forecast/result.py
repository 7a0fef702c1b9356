"""The forecast of a run as one type, and its file."""

import json
from dataclasses import field
from pathlib import Path
from typing import Final, Literal

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from distill_mtl import __version__
from distill_mtl.evaluation.forecast.conflicts import Conflicts
from distill_mtl.evaluation.forecast.law import LEVEL
from distill_mtl.evaluation.forecast.table import ForecastTask
from distill_mtl.evaluation.network_costs import Costs
from distill_mtl.files import write_text

FORMAT: Final = "distill_mtl forecast"
_PART = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True, config=_PART)
class Forecast:
    """What is known of a run before it is trained; `write` makes a JSON file of it.

    Attributes:
        recipe: digest of the recipe.
        steps: of the run.
        fork: steps that were trained and taken back.
        cost: of the student that is asked for, and of the teachers that it replaces.
        conflicts: between the teachers.
        tasks: forecasts by task.
        left_out: task -> why it has no forecast.
        merges: how many merges the law was fitted to.
        finished: tasks of runs that were forecast here and have ended.
        held: of them, how many ended inside their interval.
        format, version, distill_mtl, level: of the file, of the program that wrote it, and of the intervals.
    """

    recipe: str
    steps: int
    fork: int
    cost: Costs
    conflicts: Conflicts
    tasks: dict[str, ForecastTask]
    left_out: dict[str, str] = field(default_factory=dict)
    merges: int
    finished: int
    held: int
    format: Literal["distill_mtl forecast"] = FORMAT
    version: Literal[1] = 1
    distill_mtl: str = __version__
    level: float = LEVEL

    def write(self, path: Path) -> None:
        """Write the file, complete or not at all."""
        content = TypeAdapter(Forecast).dump_python(self, mode="json")
        write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
