"""Where an export goes: what may not be replaced, and that it is there whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distill_mtl.errors import ExportError
from distill_mtl.files import atomic_files, atomic_folder
from distill_mtl.networks.weights import CONFIG


def refuse_existing(out: Path, *, overwrite: bool) -> None:
    """Raise ExportError where `out` is there and may not be replaced, or is a folder in the place of a file."""
    if out.is_dir():
        raise ExportError(f"{out} is a folder. Name a file with --out.")
    if out.exists() and not overwrite:
        raise ExportError(f"{out} exists. Replace it with --overwrite, or choose another name with --out.")


@contextmanager
def export_folder(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """An empty folder of the same name for a network, which becomes `out` when the block ends well.

    Raises:
        ExportError: `out` is there and may not be replaced, holds something else than a network, or cannot be written.
    """
    if out.exists() and not ((out / CONFIG).is_file() or (out.is_dir() and not any(out.iterdir()))):
        raise ExportError(f"{out} exists and holds no network. Choose another folder with --out.")
    if (out / CONFIG).is_file() and not overwrite:
        raise ExportError(f"{out} exists. Replace it with --overwrite, or choose another folder with --out.")
    with _writable(out), atomic_folder(out) as made:
        yield made


@contextmanager
def export_files(out: Path) -> Iterator[Path]:
    """An empty folder for a file of the name of `out` and others, which all move beside `out` when the block ends well.

    Raises:
        ExportError: the folder cannot be written to.
    """
    with _writable(out), atomic_files(out) as made:
        yield made


@contextmanager
def _writable(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ExportError(f"{out.parent} cannot be written to: {error.strerror or error}.") from error
