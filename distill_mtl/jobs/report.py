"""Reports as files."""

from collections.abc import Sequence
from pathlib import Path

from distill_mtl.errors import UserError
from distill_mtl.files import refuse_folder, write_text
from distill_mtl.report.markdown import markdown
from distill_mtl.report.one import report_of
from distill_mtl.report.page import page
from distill_mtl.report.run_record import read_run
from distill_mtl.report.several import comparison_of


def write_report(folder: Path, *, to: Path | None = None) -> Path:
    """Write a run's report.html and report.md, finished or not.

    Args:
        folder: of the run.
        to: where the page goes instead; report.md is not written then.

    Returns:
        The page.

    Raises:
        UserError: the folder holds no run, or the page cannot be written.
    """
    if to is not None:
        refuse_folder(to, "--to")
    run = read_run(folder)
    report = report_of(run)
    _write(to or run.files.report, page(report))
    if to is None:
        sheet = run.files.pictures.name if run.files.pictures.exists() else None
        _write(run.files.report_markdown, markdown(report, sheet))
    return to or run.files.report


def write_comparison(folders: Sequence[Path], *, to: Path | None = None) -> Path:
    """Write one page that compares runs.

    Args:
        folders: of two runs or more.
        to: where the page goes; default comparison.html beside the first folder.

    Returns:
        The page.

    Raises:
        UserError: a folder holds no run or is named twice, or the page cannot be written.
    """
    if to is not None:
        refuse_folder(to, "--to")
    runs = [read_run(folder, label) for folder, label in zip(folders, _labels(folders), strict=True)]
    target = to or folders[0].resolve().parent / "comparison.html"
    _write(target, page(comparison_of(runs)))
    return target


def _labels(folders: Sequence[Path]) -> list[str]:
    """The folders' names, with as many of the folders above as it takes to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise UserError("a run cannot be compared with itself: a folder is named twice.")
    for depth in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(part[-depth:]) for part in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [str(folder) for folder in folders]


def _write(path: Path, text: str) -> None:
    """Complete or not at all."""
    try:
        write_text(path, text)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}). Choose another file with --to."
        ) from None
