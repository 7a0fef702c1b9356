import pytest
import toy_world
from rich.console import Console

from distill_mtl import distill


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory: pytest.TempPathFactory) -> toy_world.Run:
    """A whole run, nothing left out, for tests that read one: whoever changes it works on a copy."""
    recipe = toy_world.build(tmp_path_factory.mktemp("world"))
    out = recipe.parent / "run"
    return toy_world.Run(recipe, out, distill(recipe, out=out, console=Console(quiet=True)))


@pytest.fixture(scope="module", autouse=True)
def _short_runs(short_runs: None) -> None:
    """Of every test in this folder; tests/evaluation and tests/report look at what is left out."""
