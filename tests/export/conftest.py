from pathlib import Path

import export_toys
import pytest
import toy_world
from rich.console import Console

QUIET = Console(quiet=True)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    toy_world.build(folder)
    return folder


@pytest.fixture
def run(tmp_path: Path, world: Path) -> Path:
    """A finished run with the two tasks of the toy world."""
    return export_toys.toy_run(tmp_path / "toy", world)
