"""The commands: `distill.py RECIPE`, run by `accelerate launch`, and `distill-mtl COMMAND`, one for each job.

A user's mistake ends with its message and status 2, a stopped run with 130. A student that is not accepted ends
`evaluate` with 3, and training only if the recipe says `acceptance: {gate: true}`.
"""

import argparse
import gc
import importlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distill_mtl.errors import Stopped, StoppedElsewhere, UserError
from distill_mtl.jobs import DISTILL, JOBS, Job
from distill_mtl.jobs.as_command import Docstring, Parameter, add_arguments, module_docstring, read_function
from distill_mtl.system_errors import exhausted

# Threads that spin while they wait make a shared machine crawl. Read when torch is loaded, which is later.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

USER_ERROR, STOPPED = 2, 130


def distill_command(arguments: Sequence[str] | None = None) -> None:
    """Entry of distill.py and of `python -m distill_mtl`."""
    _run(distill_parser().parse_args(arguments))


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry of `distill-mtl`."""
    _run(command_parser().parse_args(in_full(sys.argv[1:] if arguments is None else arguments)))


def in_full(arguments: Sequence[str]) -> list[str]:
    """`cache RECIPE` is `cache write RECIPE`."""
    words = list(arguments)
    if words[:1] == ["cache"] and words[1:2] not in (["write"], ["verify"], ["-h"], ["--help"], []):
        words.insert(1, "write")
    return words


def distill_parser() -> argparse.ArgumentParser:
    """The parser of distill.py."""
    told, parameters = read_function(DISTILL.module, DISTILL.function)
    parser = argparse.ArgumentParser(prog="accelerate launch distill.py", **told.parser)
    _fill(parser, DISTILL, told, parameters)
    return parser


def command_parser() -> argparse.ArgumentParser:
    """The parser of `distill-mtl`, with a command for each job."""
    parser = argparse.ArgumentParser(
        prog="distill-mtl",
        description="Merge trained networks into one. With several processes: accelerate launch distill.py RECIPE.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    families: dict[str, Any] = {}
    for job in JOBS:
        *family, word = job.command.split()
        if family and family[0] not in families:
            told = module_docstring(job.module)
            above = commands.add_parser(family[0], help=told.summary, **told.parser)
            families[family[0]] = above.add_subparsers(
                required=True, metavar="COMMAND", prog=f"{parser.prog} {family[0]}"
            )
        told, parameters = read_function(job.module, job.function)
        among = families[family[0]] if family else commands
        _fill(among.add_parser(word, help=told.summary, **told.parser), job, told, parameters)
    return parser


def _fill(parser: argparse.ArgumentParser, job: Job, told: Docstring, parameters: list[Parameter]) -> None:
    add_arguments(parser, parameters)
    if job.keeps_data:
        parser.add_argument(
            "--cache",
            default=argparse.SUPPRESS,
            type=Path,
            metavar="DIR",
            help="where generated and downloaded data is kept; default $DISTILL_MTL_CACHE, else ~/.cache/distill_mtl",
        )
    parser.set_defaults(job=job, interrupted=told.interrupted)


def _function(job: Job) -> Any:
    """Import the job. What its modules make stays: to look for garbage among it meanwhile costs a fifth of the time."""
    if job.path not in sys.modules and gc.isenabled():
        gc.disable()
        try:
            importlib.import_module(job.path)
        finally:
            gc.freeze()
            gc.enable()
    return getattr(importlib.import_module(job.path), job.function)


def _run(arguments: argparse.Namespace) -> None:
    """Run the job that was parsed; what went wrong becomes a message and an exit status."""
    _open_streams()
    given = vars(arguments)
    job: Job = given.pop("job")
    interrupted = given.pop("interrupted")
    if "cache" in given:
        os.environ["DISTILL_MTL_CACHE"] = str(given.pop("cache").resolve())
    first = os.environ.get("RANK", "0") == "0"
    if first:
        logging.getLogger("distill_mtl").setLevel(logging.INFO)
        logging.basicConfig(format="%(message)s")
    try:
        with _sigterm_as_ctrl_c():
            result = _function(job)(**given)
            if isinstance(result, str):
                sys.stdout.write(result)
        status = job.status(result)
    except UserError as error:
        if first or not error.everywhere:
            _say(str(error), style="red")
        else:
            _leave_last()
        status = USER_ERROR
    except StoppedElsewhere:
        _leave_last()
        status = USER_ERROR
    except Stopped as stopped:
        if first:
            _say(str(stopped))
        status = STOPPED
    except KeyboardInterrupt:
        if first:
            _say(interrupted)
        status = STOPPED
    except BrokenPipeError:  # whoever reads standard output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except (OSError, RuntimeError, MemoryError) as error:
        if (found := exhausted(error)) is None:
            raise
        _say(found, style="red")
        status = USER_ERROR
    sys.exit(status)


def _open_streams() -> None:
    """A process that was started without standard output or error (`>&-`, some services) writes to nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  until the process ends


def _leave_last() -> None:
    """Give the process that prints the error time to do so: a launcher ends all processes once one has failed."""
    time.sleep(10)


def _say(text: str, style: str | None = None) -> None:
    from distill_mtl.display import messages

    messages().print(text, style=style, soft_wrap=True)


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
