"""Commands in processes that begin at once: forked from one that has imported everything already.

So studies of hundreds of commands take minutes. A command that hangs is killed and said to hang.
"""

import ctypes
import multiprocessing
import os
import random
import re
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

_SERVER = multiprocessing.get_context("forkserver")
_JOBS = ("cache", "check", "distill", "evaluate", "export", "predict", "shards")
_SERVER.set_forkserver_preload(["distill_mtl.cli", *(f"distill_mtl.jobs.{job}" for job in _JOBS)])
_NEW_MOUNTS = 0x00020000  # CLONE_NEWNS
_PRIVATE = (1 << 14) | (1 << 18)  # MS_REC | MS_PRIVATE
READ_ONLY = 1  # MS_RDONLY
_AGAIN = 1 << 5  # MS_REMOUNT
_mounted: set[Path] = set()
_TESTS = Path(__file__).parent


class Ended(NamedTuple):
    """How a command ended.

    Attributes:
        status: exit status; negative: the signal that ended it; None: it was still running after all its time.
        text: what it printed, standard error included.
        seconds: that it took, without those in which other programs had all processors.
    """

    status: int | None
    text: str
    seconds: float

    @property
    def finding(self) -> str:
        """`ok`, `refused`, or what must never be: `hang`, `signal`, `traceback`, `status N`."""
        if self.status is None:
            return "hang"
        if self.status < 0:
            return f"signal {signal.Signals(-self.status).name}"
        if "Traceback (most recent call last)" in self.text:
            return "traceback"
        return {0: "ok", 2: "refused"}.get(self.status, f"status {self.status}")

    @property
    def line(self) -> str:
        """The last line of the message, without colours."""
        lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.text).strip().splitlines()
        return lines[-1].strip() if lines else ""


def run(*arguments: object, prepare: Callable[[], object] | None = None, seconds: float = 60.0) -> Ended:
    """Run a command of `toy_command.py` to its end.

    Args:
        arguments: of the command.
        prepare: called first in its process; it must be picklable.
        seconds: after which it counts as hanging; those in which it only waited for a processor do not count.
    """
    (ended,) = _run(list(map(str, arguments)), prepare, seconds, [{}])
    return ended


def run_two(
    *arguments: object, prepare: Callable[[], object] | None = None, seconds: float = 200.0
) -> tuple[Ended, Ended]:
    """`run_together` with two processes."""
    first, second = run_together(2, *arguments, prepare=prepare, seconds=seconds)
    return first, second


def run_together(
    world: int, *arguments: object, prepare: Callable[[], object] | None = None, seconds: float = 200.0
) -> list[Ended]:
    """Run a command in processes that work together, in the environment that Accelerate's launcher gives them.

    For tests that are about what several processes compute: the launcher and two processes that import everything take
    a quarter of a minute of processor time. What the launcher itself does is tested with `children.TWO`.
    """
    port = _free_port()
    common = {
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]
    environments = [{**os.environ, **common, **rank, "ACCELERATE_MIXED_PRECISION": "no"} for rank in ranks]
    return _run(list(map(str, arguments)), prepare, seconds, environments)


def _free_port() -> int:
    """Below those that the system hands out itself, so that no connection takes it before the first process does."""
    while True:
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", random.SystemRandom().randrange(20_000, 32_000)))
            return int(free.getsockname()[1])


def _run(
    arguments: Sequence[str],
    prepare: Callable[[], object] | None,
    seconds: float,
    environments: Sequence[Mapping[str, str]],
) -> list[Ended]:
    """A command in a process for each environment."""
    logs, processes = list[str](), list[Any]()
    mounts = f"/proc/{os.getpid()}/ns/mnt"
    try:
        for environment in environments:
            descriptor, log = tempfile.mkstemp(suffix=".log")
            os.close(descriptor)
            logs.append(log)
            process = _SERVER.Process(
                target=_child, args=(arguments, prepare, log, os.getcwd(), mounts, environment)
            )
            process.start()  # returns when the server has imported everything
            processes.append(process)
        begun = time.monotonic()
        ended = [_end_of(process, begun, seconds) for process in processes]
        return [
            Ended(status, Path(log).read_text(errors="replace"), took)
            for (status, took), log in zip(ended, logs, strict=True)
        ]
    finally:
        for process in processes:
            if process.exitcode is None:
                _kill_all(process.pid)
        for log in logs:
            os.unlink(log)


def _end_of(process: Any, begun: float, seconds: float) -> tuple[int | None, float]:
    """Exit status of a process, None for one that hung and was killed, and the seconds that it took."""
    took = 0.0
    while process.exitcode is None and took < seconds:
        waited = _seconds_without_processor(process.pid)
        process.join(0.5)
        took = time.monotonic() - begun - waited
    status = process.exitcode
    if status is None:
        _kill_all(process.pid)
        process.join()
    return status, took


@contextmanager
def own_mounts() -> Iterator[bool]:
    """Inside, this process and the commands that it runs may mount what nobody else sees; gives whether they may."""
    before, folder = os.open("/proc/self/ns/mnt", os.O_RDONLY), os.getcwd()
    allowed = _call("unshare", _NEW_MOUNTS) and _call("mount", b"none", b"/", None, _PRIVATE, None)
    try:
        yield allowed
    finally:
        _mounted.clear()
        _call("setns", before, _NEW_MOUNTS)
        os.close(before)
        os.chdir(folder)


def mount_memory(folder: Path, size: str, flags: int = 0) -> None:
    """A disk of so many bytes (`1m`) in memory at a folder, for `own_mounts`; mounted again it changes."""
    again = _AGAIN if folder in _mounted else 0  # what others have mounted must not change
    if not _call("mount", b"tmpfs", os.fsencode(folder), b"tmpfs", flags | again, f"size={size}".encode()):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
    _mounted.add(folder)


def _child(
    arguments: Sequence[str],
    prepare: Callable[[], object] | None,
    log: str,
    folder: str,
    mounts: str,
    environment: Mapping[str, str],
) -> None:
    multiprocessing.set_start_method("fork", force=True)  # as where nobody forked it
    os.setpgid(0, 0)  # its reader processes are killed with it
    sys.path[:0] = [str(_TESTS)]
    os.environ.update({**environment, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"})
    with open(log, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    _enter(mounts)
    os.chdir(folder)
    import short_runs
    import toys  # noqa: F401  registers the family

    from distill_mtl.cli import distill_command, main

    short_runs.shorten()
    if prepare is not None:
        prepare()
    if arguments[0] == "distill":
        distill_command(arguments[1:])
    else:
        main(arguments)


def _seconds_without_processor(process: int | None) -> float:
    """For how long the longest waiting of a process and its readers could have run and was not let."""
    waits = [0.0]
    with suppress(OSError):
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        for number in (process, *children):
            waits.append(int(Path(f"/proc/{number}/schedstat").read_text().split()[1]) / 1e9)
    return max(waits)


def _enter(mounts: str) -> None:
    """See what the process that asked has mounted."""
    if os.readlink(mounts) != os.readlink("/proc/self/ns/mnt"):
        descriptor = os.open(mounts, os.O_RDONLY)
        _call("setns", descriptor, _NEW_MOUNTS)
        os.close(descriptor)


def _call(name: str, *arguments: object) -> bool:
    """A function of the system's C library that Python 3.11 does not have."""
    library = ctypes.CDLL(None, use_errno=True)
    return hasattr(library, name) and getattr(library, name)(*arguments) == 0


def _kill_all(leader: int | None) -> None:
    """A process and its readers."""
    if leader is not None:
        with suppress(ProcessLookupError):
            os.killpg(leader, signal.SIGKILL)
