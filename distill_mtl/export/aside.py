"""Writing an export so that it is there whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from distill_mtl.errors import ExportError
from distill_mtl.networks.weights import CONFIG


def refuse_existing(out: Path, *, overwrite: bool) -> None:
    """Raise ExportError where `out` is there and may not be replaced, or is a folder in the place of a file."""
    if out.is_dir():
        raise ExportError(f"{out} is a folder. Name a file with --out.")
    if out.exists() and not overwrite:
        raise ExportError(f"{out} exists. Replace it with --overwrite, or choose another name with --out.")


@contextmanager
def folder_aside(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """An empty folder beside `out`, in which the block writes a folder of that name with a network in it.

    When the block ends well it becomes `out`; otherwise nothing is left of it.

    Raises:
        ExportError: `out` is there and may not be replaced, or holds something else than a network.
    """
    if out.exists() and not ((out / CONFIG).is_file() or (out.is_dir() and not any(out.iterdir()))):
        raise ExportError(f"{out} exists and holds no network. Choose another folder with --out.")
    if (out / CONFIG).is_file() and not overwrite:
        raise ExportError(f"{out} exists. Replace it with --overwrite, or choose another folder with --out.")
    with _beside(out) as aside:
        yield aside
        earlier = aside / "earlier"
        try:
            if out.exists():
                os.replace(out, earlier)
            os.replace(aside / out.name, out)
        except BaseException:
            if earlier.exists() and not out.exists():
                os.replace(earlier, out)
            raise


@contextmanager
def written_aside(out: Path) -> Iterator[Path]:
    """An empty folder beside `out`, in which the block writes a file of that name and others.

    When the block ends well they all move beside `out`, that file last; otherwise nothing is left of them.
    """
    with _beside(out) as aside:
        yield aside
        for file in sorted(aside.iterdir(), key=lambda file: file.name == out.name):
            os.replace(file, out.with_name(file.name))


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """An empty folder of this process alone, removed at the end, with the folders above it that it was made for."""
    made = [folder for folder in out.parents if not folder.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
    except OSError as error:
        raise ExportError(f"{out.parent} cannot be written to: {error.strerror}.") from error
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        for folder in made:
            with suppress(OSError):  # in use by now
                folder.rmdir()
