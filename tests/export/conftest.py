from collections.abc import Callable
from pathlib import Path

import export_toys
import pytest
import toy_world
from rich.console import Console

from distill_mtl.export.export_format import FORMATS
from distill_mtl.jobs.export import export_student

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


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, world: Path) -> Callable[..., Path]:
    """`exported(format, model, **options)`: a file to read, written once however many tests ask for it.

    Without a model its student has the two tasks of the toy world, with one every kind of task. `FILE/../student` is
    that student's folder.
    """
    runs: dict[str | None, Path] = {}
    files: dict[str, Path] = {}

    def give(to: str, model: str | None = None, **options: object) -> Path:
        if model not in runs:
            made = export_toys.student(model) if model else export_toys.toy_student()
            runs[model] = export_toys.run_folder(tmp_path_factory.mktemp("exported"), made, world)
        form = f"{to} {model} {sorted(options.items())}"
        if form not in files:
            out = runs[model] / f"{len(files)}{FORMATS[to].ending}"
            data = [str(world / "pool-test.tar")] if model else []
            files[form] = export_student(
                runs[model], to, out=out, rows=12, data=data, console=QUIET, **options
            )
        return files[form]

    return give
