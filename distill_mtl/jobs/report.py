"""`distill-mtl report`: the page of a run, or of several, from their folders alone."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from distill_mtl.display import output
from distill_mtl.errors import UserError
from distill_mtl.files import refuse_unwritable, write_text
from distill_mtl.remote_files import is_remote
from distill_mtl.report.blocks import Report
from distill_mtl.report.console import print_summary
from distill_mtl.report.html import page
from distill_mtl.report.markdown import markdown
from distill_mtl.report.run_comparison import comparison_of
from distill_mtl.report.run_record import read_run
from distill_mtl.report.run_report import report_of
from distill_mtl.run_files import RunFiles
from distill_mtl.training.run_bucket import run_at


def write_report(
    folders: Sequence[Path | str], *, to: Path | None = None, console: Console | None = None
) -> Path:
    """Write the report of a run again, or one page that compares runs.

    One run: write its report.html and report.md again, from its folder alone; an unfinished run is shown as far as it
    came. Several runs: write one page that compares them. Of runs that differ by their seed alone it has the mean, its
    spread and an interval over rows and seeds, and of two recipes whether their difference is within what seeds do; the
    command prints this too.

    Args:
        folders (RUN ...): run folder, such as runs/multidigits or s3://bucket/runs/multidigits.
        to (FILE): where the page goes; default report.html in the run folder, of several runs comparison.html beside
            the first (of a folder of seeds only if these are all of them, else beside that folder). With it no
            report.md is written.
        console: where the page's place is said; default standard output.

    Returns:
        The page.

    Raises:
        UserError: a folder holds no run or is named twice, or the page cannot be written.
        KeyboardInterrupt: interrupted before the report was finished. The same command writes it.
    """
    if to is not None:
        refuse_unwritable(to, "--to")
    given = [folders] if isinstance(folders, Path | str) else folders
    if len(given) > 1 and to is None and is_remote(given[0]):
        raise UserError(
            "report: the first run is in a bucket. Say where the page of several runs goes, with --to FILE."
        )
    report: Report | None = None
    with ExitStack() as runs_here:
        paths = [runs_here.enter_context(run_at(folder)) for folder in given]
        if len(paths) == 1:
            written = report_in(paths[0], to=to)
        else:
            runs = [read_run(path, label) for path, label in zip(paths, _labels(paths), strict=True)]
            written = to or _beside(paths)
            report = comparison_of(runs)
            write_text(written, page(report))
    place = f"{given[0]}/{written.name}" if to is None and is_remote(given[0]) else written
    console = console or output()
    console.print(f"report: {place}", highlight=False, soft_wrap=True)
    if report is not None and any(section.summary for section in report.sections):
        console.print()
        print_summary(console, report)
    return written


def _beside(paths: Sequence[Path]) -> Path:
    """Where the page of several runs goes: beside the first, but not in the place of the page of all seeds."""
    folder = paths[0].resolve().parent
    seeds = {run.resolve() for run in folder.glob("seed-*") if RunFiles(run).recipe.exists()}
    if seeds and seeds != {path.resolve() for path in paths}:
        folder = folder.parent
    return folder / "comparison.html"


def report_in(folder: Path, *, to: Path | None = None) -> Path:
    """Write the report of one run into its folder, or its page to `to`; the page's place."""
    files = RunFiles(folder)
    report = report_of(read_run(folder))
    write_text(to or files.report, page(report))
    if to is None:
        grid = files.pictures.name if files.pictures.exists() else None
        write_text(files.report_markdown, markdown(report, grid))
    return to or files.report


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
