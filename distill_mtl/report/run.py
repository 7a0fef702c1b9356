"""A run folder, read: all that a report knows of a run. No teacher, no student and no data is opened."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from distill_mtl.errors import UserError
from distill_mtl.report.metrics import Metrics, read_metrics
from distill_mtl.report.pictures import Gallery, read_gallery
from distill_mtl.report.results import Results, read_results
from distill_mtl.run_files import RunFiles


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        label: how it is called beside other runs.
        files: its folder.
        recipe_text: the resolved recipe as it stands in the folder.
        teachers: teachers.json.
        environment: environment.json; empty where the run wrote none.
        metrics: what was logged.
        results: the comparison; None while the run is not finished.
        gallery: pictures of rows; None where there are none.
    """

    label: str
    files: RunFiles
    recipe_text: str
    teachers: dict[str, dict[str, Any]]
    environment: dict[str, Any]
    metrics: Metrics
    results: Results | None
    gallery: Gallery | None

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe's content."""
        content: dict[str, Any] = yaml.safe_load(self.recipe_text)
        return content

    @property
    def name(self) -> str:
        """The recipe's name, or the folder's."""
        return str(self.recipe.get("name") or self.files.path.resolve().name)

    @property
    def tasks(self) -> list[str]:
        """In the recipe's order."""
        return list(self.recipe.get("tasks") or {})


def read_run(folder: Path, label: str | None = None) -> Run:
    """Read a run folder, finished or not.

    Raises:
        UserError: it holds no run, or a file of it is not what a run writes.
    """
    files = RunFiles(folder)
    if not files.recipe.exists():
        raise UserError(
            f"{folder} holds no run: there is no {files.recipe.name}. Give a folder like runs/NAME."
        )
    return Run(
        label=label or folder.resolve().name,
        files=files,
        recipe_text=files.recipe.read_text(encoding="utf-8"),
        teachers=_json(files.teachers),
        environment=_json(files.environment),
        metrics=read_metrics(files.metrics),
        results=read_results(files.results) if files.results.exists() else None,
        gallery=read_gallery(files.examples),
    )


def _json(path: Path) -> dict[str, Any]:
    """Nothing where there is no file: a run that was stopped in its check has not written it."""
    if not path.exists():
        return {}
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is no JSON ({error}). Start the run again with --overwrite.") from None
    return content
