"""`distill-mtl report`: the page of a run, or of several."""

import argparse
from pathlib import Path
from typing import Any


def add_report(commands: Any) -> None:
    report = commands.add_parser(
        "report",
        help="write the report of a run again, or one page that compares runs",
        description="One run: write its report.html and report.md again, from its folder alone; a run that is not "
        "finished is shown as far as it came. Several runs: write one page that compares them.",
    )
    report.add_argument(
        "folders", nargs="+", type=Path, metavar="RUN", help="run folder, such as runs/multidigits"
    )
    report.add_argument(
        "--to",
        type=Path,
        metavar="FILE",
        help="where the page goes; default report.html in the run folder, of several runs comparison.html beside "
        "the first",
    )
    report.set_defaults(
        run=_report, interrupted="interrupted before the report was finished. The same command writes it."
    )


def _report(arguments: argparse.Namespace) -> int:
    from distill_mtl.display import output
    from distill_mtl.jobs.report import write_comparison, write_report

    if len(arguments.folders) == 1:
        page = write_report(arguments.folders[0], to=arguments.to)
    else:
        page = write_comparison(arguments.folders, to=arguments.to)
    output().print(f"report: {page}", highlight=False, soft_wrap=True)
    return 0
