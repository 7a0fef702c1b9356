"""Pieces of work as tasks of a Ray cluster: handed out, taken back as they are done, cancelled.

Ray decides where a piece runs, gives what a lost node had to another one, and takes in nodes that join. What is ours:
each mistake is said in one line, without a traceback of Ray, and a stopped job loses no piece that is done. Ray is
imported only here, and only when it is asked for.
"""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, TypeVar

import torch

import distill_mtl
from distill_mtl.errors import Stopped, UserError, brief
from distill_mtl.extras import extra
from distill_mtl.system_errors import exhausted

Shared = TypeVar("Shared")
Piece = TypeVar("Piece")
Result = TypeVar("Result")

LOCAL, ANY = "local", "auto"
"""Addresses: a cluster of this machine alone, which ends with the job; the one that this machine belongs to."""
_RETRIES = 10  # of a piece whose node or process was lost; errors of ours are not tried again
_AHEAD = 512  # pieces that Ray knows of: more than a cluster runs at once, so that nodes that join have some
_POLL = 0.2
_PATIENCE = 10.0  # seconds for an address to answer, and for cancelled pieces to end
_SAY_AFTER = 30.0  # seconds in which no piece ended
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(
    [0, 0, 0, 4, 0, 0, 0, 0, 0]
)  # HTTP/2, with empty settings
_SETTINGS = 4  # the type of the first frame of whoever speaks HTTP/2, as gRPC does
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """Where the command was started; relative paths of a recipe mean the same on every node.

    Attributes:
        version: of this package.
        folder: the working directory.
        environment: variables that pieces read.
    """

    version: str = field(default_factory=lambda: distill_mtl.__version__)
    folder: str = field(default_factory=os.getcwd)
    environment: Mapping[str, str] = field(
        default_factory=lambda: {
            name: os.path.abspath(value) for name in ("DISTILL_MTL_CACHE",) if (value := os.environ.get(name))
        }
    )

    def enter(self) -> None:
        """Make it that of this process, which runs pieces.

        Raises:
            UserError: another version of this package is installed here.
        """
        if distill_mtl.__version__ != self.version:
            raise UserError(
                f"distill_mtl {distill_mtl.__version__} is installed there, and the command runs {self.version}. "
                "Install one version on all nodes."
            )
        os.environ.update(self.environment)
        with suppress(OSError):  # what is missing there is said when it is read
            os.chdir(self.folder)


@dataclass(frozen=True)
class _Task(Generic[Shared, Piece, Result]):
    """What all pieces of a job have in common; it travels once to each node."""

    work: Callable[[Shared, Piece], Result]
    shared: Shared
    setting: Setting


@dataclass(frozen=True)
class _Failed:
    """A mistake of the user's, found on a node."""

    node: str
    text: str


class RayCluster:
    """The cluster that this process is connected to; `connect` makes it.

    Args:
        ray: the module.

    Attributes:
        gpus: whether it has GPUs that may be used.
    """

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        on_cpu = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("true", "1")
        self.gpus = self._has("GPU") and not on_cpu

    def run(
        self,
        work: Callable[[Shared, Piece], Result],
        shared: Shared,
        pieces: Sequence[Piece],
        *,
        name: Callable[[Piece], str],
        needs_gpu: Callable[[Piece], bool] = lambda piece: False,
        in_order: bool = False,
        stopping: Callable[[], bool] = lambda: False,
    ) -> Generator[tuple[Piece, Result], None, None]:
        """Each piece and what `work` made of it, as they end or in their order. Where one fails, or the job is
        stopped, the others are cancelled.

        Args:
            work: a function of a module that every node has; run again for a piece whose node was lost.
            shared: its first argument: one object in each process, however many pieces it works on.
            pieces: its second argument.
            name: how a message names a piece.
            needs_gpu: whether a piece needs a GPU to itself; else it has one core.
            in_order: in the order of the pieces; what is made early waits in the cluster.
            stopping: whether to end.

        Raises:
            UserError: a piece failed; the message names it and its node.
            Stopped: `stopping` came to be.
        """
        run = os.urandom(8).hex()
        task = self._ray.put(_Task(work, shared, Setting()))
        submit = self._ray.remote(_work)
        waiting, running, idle_since = iter(pieces), dict[Any, Piece](), time.monotonic()
        try:
            while True:
                for piece in islice(waiting, _AHEAD - len(running)):
                    needed = {"num_gpus": 1} if needs_gpu(piece) else {"num_cpus": 1}
                    options = submit.options(max_retries=_RETRIES, retry_exceptions=False, **needed)
                    # In a list, Ray hands the object's name on and not its content.
                    running[options.remote(run, [task], piece, "num_gpus" in needed)] = piece
                if not running:
                    return
                done, _ = self._ray.wait(list(running)[: 1 if in_order else None], timeout=_POLL)
                if stopping():
                    raise Stopped
                for one in done:
                    piece, idle_since = running.pop(one), time.monotonic()
                    yield piece, self._result(one, name(piece))
                if time.monotonic() - idle_since > _SAY_AFTER and running:
                    idle_since = time.monotonic()
                    resource = "GPU" if needs_gpu(next(iter(running.values()))) else "CPU"
                    if not self._has(resource):
                        _log.info("no node of the cluster has a %s; waiting for one to join", resource)
        finally:
            self._cancel(list(running))

    def _has(self, resource: str) -> bool:
        return float(self._ray.cluster_resources().get(resource, 0)) >= 1

    def _result(self, done: Any, piece: str) -> Any:
        try:
            result = self._ray.get(done)
        except self._ray.exceptions.RayTaskError as error:
            raise UserError(f"{piece}: {brief(error.cause)}.") from error
        except self._ray.exceptions.RayError as error:
            raise UserError(f"{piece}, tried {_RETRIES + 1} times: {brief(error)}.") from error
        if isinstance(result, _Failed):
            raise UserError(f"{piece}, on node {result.node}: {result.text}")
        return result

    def _cancel(self, running: Sequence[Any]) -> None:
        """End what runs, as Ctrl-C would, so that it removes what it has half written."""
        for one in running:
            with suppress(self._ray.exceptions.RayError):
                self._ray.cancel(one)
        if running:
            self._ray.wait(list(running), num_returns=len(running), timeout=_PATIENCE)


_held: dict[str, _Task] = {}


def _work(run: str, task: list[Any], piece: Any, gpu: bool) -> Any:
    """One piece, in a process of a node; a mistake of the user's is a result, so that Ray does not try again."""
    try:
        if run not in _held:
            import ray

            _held.clear()
            held: _Task = ray.get(task[0])
            held.setting.enter()
            if not gpu:
                torch.set_num_threads(1)  # the core that the piece has
            _held[run] = held
        return _held[run].work(_held[run].shared, piece)
    except KeyboardInterrupt:
        # A cancelled piece may have interrupted an import, which leaves modules half loaded: Ray must not give the
        # process another piece.
        raise SystemExit(1) from None
    except UserError as error:
        return _Failed(socket.gethostname(), str(error))
    except (OSError, RuntimeError, MemoryError) as error:
        if (found := exhausted(error)) is None:
            raise
        return _Failed(socket.gethostname(), found)


@contextmanager
def connect(address: str) -> Iterator[RayCluster]:
    """Join a cluster for the length of the block. A program that has called `ray.init` keeps its own connection.

    Args:
        address: `local` (one is started on this machine), `auto` (that of this machine), or HOST:PORT of the head.

    Raises:
        UserError: Ray is not installed, nothing answers there, or its version or Python's is another.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "--ray: Ray starts the processes itself, and a launcher has started several. Run `distill-mtl` without it."
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # What Ray says of each lost node, in dozens of lines on standard output.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^")
    ray = extra("ray", "ray", "--ray")
    if ray.is_initialized():
        yield RayCluster(ray)
        return
    if address not in (LOCAL, ANY):
        _refuse_unreachable(address)
    with _own_signals():
        _join(ray, address)
    try:
        yield RayCluster(ray)
    finally:
        with _own_signals():
            ray.shutdown()


def _join(ray: Any, address: str) -> None:
    logging.getLogger("ray").setLevel(logging.ERROR)
    options: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            configure_logging=False,
            logging_level=logging.ERROR,
            **options,
        )
    except SystemExit:  # what Ray makes of an address where no cluster answers
        raise UserError(f"--ray {address}: the cluster does not answer.") from None
    except ConnectionError as error:
        said = f"{brief(error)}."
        if address == ANY:
            said = (
                "this machine belongs to no Ray cluster. Start one with `ray start --head`, name the head node "
                "(HOST:PORT), or use --ray local."
            )
        raise UserError(f"--ray {address}: {said}") from None
    # Versions that differ, no node on this machine: Ray has an error of its own for each.
    except Exception as error:
        raise UserError(f"--ray {address}: {brief(error)}.") from None


def _refuse_unreachable(address: str) -> None:
    """Ask whether a Ray head could be there: Ray itself would take minutes to give up."""
    host, _, port = address.rpartition(":")
    if "://" in address:
        raise UserError(
            f"--ray {address}: a job is started on a machine of the cluster, with --ray auto or HOST:PORT of the head "
            "node (`ray job submit` does so from elsewhere)."
        )
    if not (host and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise UserError(
            f"--ray {address}: expected local, auto, or HOST:PORT of the head node: 10.0.0.1:6379."
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _PATIENCE) as connection:
            connection.sendall(_PREFACE)
            answer = connection.recv(9) if "RAY_USE_TLS" not in os.environ else b""
    except OSError as error:
        raise UserError(
            f"--ray {address}: nothing answers there ({error.strerror or brief(error)}). Start the head node with "
            "`ray start --head`, and name its address and port (6379 unless --port says otherwise)."
        ) from None
    if answer and (len(answer) < 9 or answer[3] != _SETTINGS):
        raise UserError(
            f"--ray {address}: what answers there is not the head of a Ray cluster. Its port is 6379 unless `ray start "
            "--port` says otherwise; 8265 is that of the dashboard."
        )


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray puts a handler of its own in place of SIGTERM's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # set by other than Python
                signal.signal(number, handler)
