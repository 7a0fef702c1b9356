"""Finished runs of the same merge in a folder of runs: what they measured at another length."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_mtl.errors import UserError
from distill_mtl.evaluation.forecast.law import Case, Features
from distill_mtl.evaluation.forecast.table import change_of
from distill_mtl.evaluation.result import Evaluation
from distill_mtl.reading import Remedy
from distill_mtl.recipe import Recipe, dump_recipe
from distill_mtl.recipe.yaml_reader import parse_yaml, read_yaml
from distill_mtl.run_files import RunFiles
from distill_mtl.run_notes import ResolvedRecipe, read_teachers

_log = logging.getLogger(__name__)
_OWN = Remedy("It is left out of the forecast.")


@dataclass(frozen=True)
class EarlierRun:
    """A finished run of the merge that is forecast.

    Attributes:
        folder: of the run.
        cases: its tasks, by name.
    """

    folder: Path
    cases: Mapping[str, Case]


def earlier_runs(
    runs: Path, recipe: Recipe, teachers: Mapping[str, str], features: Mapping[str, Features], steps: int
) -> list[EarlierRun]:
    """Runs with the same teachers, data and student; a run that cannot be read is left out with a warning.

    Args:
        runs: the folder of runs.
        recipe: of the run that is forecast, resolved.
        teachers: task -> sha256 of its teacher.
        features: task -> what is known of it in the run that is forecast.
        steps: of that run.
    """
    mine: dict[str, Any] = parse_yaml(dump_recipe(recipe), ResolvedRecipe, "the recipe")
    found = []
    for results in sorted(runs.glob("*/results.json")):
        files = RunFiles(results.parent)
        try:
            theirs: dict[str, Any] = read_yaml(files.recipe, ResolvedRecipe, remedy=_OWN)
            entries = read_teachers(files.teachers).items()
            known = {name: entry["sha256"] for name, entry in entries if "sha256" in entry}
            if known != dict(teachers) or not _same(mine, theirs):
                continue
            result = Evaluation.read(files.results)
        except UserError as error:
            _log.warning("%s", error)
            continue
        rows = (result.steps or 0) * int((theirs.get("training") or {}).get("batch_size") or 0)
        share = rows / (steps * recipe.training.batch_size)
        cases = {
            task: Case(
                merge=str(files.path),
                task=task,
                features=Features(passes=features[task].passes * share, size=features[task].size),
                change=change,
            )
            for task, measured in result.tasks.items()
            if share and task in features and (change := change_of(measured)) is not None
        }
        if cases:
            found.append(EarlierRun(files.path, cases))
    return found


def _same(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Whether two resolved recipes have the same rows and the same student, taught or not."""
    taught = [(said.get("training") or {}).get("teachers_on") for said in (mine, theirs)]
    return taught[0] == taught[1] and all(mine.get(key) == theirs.get(key) for key in ("student", "data"))
