from pathlib import Path

import pytest
import short_runs
import toy_world
from rich.console import Console

from distill_mtl import distill


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory: pytest.TempPathFactory) -> toy_world.Run:
    """A whole run for tests that read one: whoever changes it works on a copy.

    Its hints are calibrated on as few rows as those of the short runs here, so that both have the same weights.
    """
    recipe = toy_world.build(tmp_path_factory.mktemp("world"))
    out = recipe.parent / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distill_mtl.jobs.distill.CALIBRATION_ROWS", short_runs.CALIBRATION_ROWS)
        return toy_world.Run(recipe, out, distill(recipe, out=out, console=Console(quiet=True)))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a toy world for the tests of one file."""
    return toy_world.build(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module", autouse=True)
def _short_runs(short_runs: None) -> None:
    """Of every test in this folder; tests/evaluation and tests/report look at what is left out."""
