"""The commands: `distill.py RECIPE`, run by `accelerate launch`, and
`distill-mtl shards|init|check|cache|evaluate|report|export|predict|schema|teacher`.

A user's mistake ends with its message and status 2, a student below its acceptance with 3, a stopped
run with 130.
"""

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console

from distill_mtl.commands.arguments import STOPPED, USER_ERROR
from distill_mtl.commands.cache import add_cache_command, named_way
from distill_mtl.commands.check import add_check
from distill_mtl.commands.distill import distill_parser
from distill_mtl.commands.evaluate import add_evaluate
from distill_mtl.commands.export import add_export
from distill_mtl.commands.init import add_init
from distill_mtl.commands.predict import add_predict
from distill_mtl.commands.report import add_report
from distill_mtl.commands.schema import add_schema
from distill_mtl.commands.shards import add_shards
from distill_mtl.commands.teacher import add_teacher
from distill_mtl.errors import Stopped, StoppedElsewhere, UserError

# Threads that spin while they wait make a shared machine crawl. Read when torch is loaded, which is later.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


_COMMANDS = (
    add_shards,
    add_init,
    add_check,
    add_cache_command,
    add_evaluate,
    add_report,
    add_export,
    add_predict,
    add_schema,
    add_teacher,
)


def distill_command(arguments: Sequence[str] | None = None) -> None:
    """Entry of distill.py and of `python -m distill_mtl`."""
    _run(distill_parser().parse_args(arguments))


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry of `distill-mtl`."""
    parser = argparse.ArgumentParser(
        prog="distill-mtl",
        description="Everything around a run. The run itself: accelerate launch distill.py RECIPE.",
    )
    parser.set_defaults(interrupted="interrupted.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in _COMMANDS:
        add(commands)
    _run(parser.parse_args(named_way(sys.argv[1:] if arguments is None else arguments)))


def _run(arguments: argparse.Namespace) -> None:
    """Run the command that was parsed and turn what went wrong into a message and an exit status."""
    if getattr(arguments, "cache", None) is not None:
        os.environ["DISTILL_MTL_CACHE"] = str(arguments.cache.resolve())
    first = os.environ.get("RANK", "0") == "0"
    errors = Console(stderr=True, highlight=False)
    if first:
        logging.getLogger("distill_mtl").setLevel(logging.INFO)
        logging.basicConfig(format="%(message)s")
    try:
        with _sigterm_as_ctrl_c():
            status = arguments.run(arguments)
    except UserError as error:
        if first or not error.everywhere:
            errors.print(str(error), style="red", markup=False, soft_wrap=True)
        status = USER_ERROR
    except StoppedElsewhere:
        status = USER_ERROR
    except Stopped as stopped:
        if first:
            errors.print(str(stopped), markup=False, soft_wrap=True)
        status = STOPPED
    except KeyboardInterrupt:
        if first:
            errors.print(arguments.interrupted, markup=False, soft_wrap=True)
        status = STOPPED
    sys.exit(status)


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """What is half written is then removed, as on Ctrl-C.

    Not among several processes: one that waits for the others inside a collective sees no exception.
    """
    if "RANK" in os.environ or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    main()
