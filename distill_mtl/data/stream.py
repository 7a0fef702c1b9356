"""The training stream: the rows of each step, and their batches.

The plan says which rows a step has; `stream` cuts each step into one slice per process and micro-batch
and has the slices read, here or by worker processes. So the union of two
processes' slices is one process's batch, and resuming is a step number (DESIGN 4.24).
"""

import atexit
import multiprocessing
import os
import shutil
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import partial
from itertools import chain
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from distill_mtl.data.batch import ALONE, Batch, BatchRows, ProcessShare
from distill_mtl.data.batch_plan import Plan
from distill_mtl.data.reader import Reader
from distill_mtl.errors import ShardError, Stopped, UserError, brief
from distill_mtl.system_errors import error_number, megabytes, reason_of

Item = TypeVar("Item")
Made = TypeVar("Made")
_SHARED = Path("/dev/shm")
_DIED, _LATE = "DataLoader worker (pid", "DataLoader timed out"  # how messages of torch begin
_GLANCE = 1.0  # seconds of waiting for a batch, after which the process looks whether it is to stop
_FEWER = (
    "Lower training.workers (of shards: --workers), where 0 needs neither shared memory nor processes, or the batch "
    "size; or raise the limit: docker run --shm-size=8g, ulimit -n."
)
_PATIENCE = 60.0  # seconds for reading a few rows again


def stream(
    plan: Plan,
    reader: Reader,
    steps: range,
    *,
    micro_batches: int = 1,
    share: ProcessShare = ALONE,
    workers: int = 0,
    stopping: Callable[[], bool] = lambda: False,
) -> Iterator[Batch]:
    """The batches of one process, `micro_batches` for each step.

    Args:
        plan: which rows.
        reader: how they are read.
        steps: the steps to go through.
        micro_batches: parts of a process's rows of a step.
        share: this process among all.
        workers: reader processes; 0 reads in this one.
        stopping: whether to wait no longer for a batch that reader processes are at.

    Raises:
        UserError: what a row's reading raises, as soon as its batch is due.
        Stopped: `stopping` came to be while a batch was due.
    """
    slices = _Slices(plan, steps, micro_batches, share)
    return read_ahead(reader.training, slices, workers, reader.one_by_one, stopping)


def read_ahead(
    work: Callable[[Item], Made],
    items: Iterable[Item],
    workers: int,
    one_by_one: Callable[[Item], Iterable[tuple[str, Item]]],
    stopping: Callable[[], bool] = lambda: False,
) -> Iterator[Made]:
    """`work` done on each item, in their order: here, or ahead of time by other processes.

    Args:
        work: travels to the other processes, and what it makes travels back.
        items: what to do it on.
        workers: reader processes; 0 works in this one.
        one_by_one: the rows of an item: where each comes from, and the item of that row alone.
        stopping: whether to wait no longer for what other processes are at.

    Raises:
        UserError: what `work` raises, as soon as its item is due; the machine has no room for reader processes, or for
            what they hand over.
        Stopped: `stopping` came to be while an item was due.
        ShardError: a reader process was ended by a signal, with the row that it was at.
    """
    if workers == 0:
        yield from map(work, items)
        return
    taken = _Taken(items)
    loader = DataLoader(
        _Work(work),
        sampler=taken,
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=torch.cuda.is_available(),
        # DataLoader draws a seed when it starts; from its own generator, so that the run's stays untouched.
        generator=torch.Generator(),
        worker_init_fn=_begin_reading,
        timeout=_GLANCE,
    )
    readers = _Readers(loader)
    # Readers ignore SIGTERM, and Python waits for them at its end: whatever ends this process must end them.
    end = partial(_kill, readers._workers)
    atexit.register(end)
    _raise_only_while_waiting()
    try:
        while True:
            try:
                made = _next(readers, stopping)
            except StopIteration:
                return
            except RuntimeError as error:
                if not str(error).startswith(_DIED):
                    raise
                break
            taken.waiting.popleft()
            if isinstance(made, UserError):
                raise made
            yield made
        rows = [row for item in taken.waiting for row in one_by_one(item)]
        raise _reader_ended(work, rows, end())
    finally:
        if stopping():
            end()  # a reader may be at its row for long
        readers._shutdown_workers()
        end()
        atexit.unregister(end)


class _Readers(_MultiProcessingDataLoaderIter):
    """DataLoader's own, whose processes are ended where not all of them can be started.

    Raises:
        UserError: they cannot be started.
    """

    def __init__(self, loader: "DataLoader[Any]") -> None:
        self._workers: list[Any] = []
        try:
            super().__init__(loader)
        except OSError as error:
            _kill(self._workers)
            self._shutdown = True  # or torch prints a traceback when it is collected
            reason = reason_of(error) or error.strerror or brief(error)
            raise UserError(
                f"training.workers: {loader.num_workers} reader processes cannot be started: {reason}. {_FEWER}"
            ) from error


class _Wait:
    """Whether this process waits for a batch, and what torch does about the end of a reader process."""

    is_on = False
    torch_handler: Callable[[int, Any], object]

    @classmethod
    def child_ended(cls, number: int, frame: Any) -> None:
        if cls.is_on:
            cls.torch_handler(number, frame)


def _raise_only_while_waiting() -> None:
    """torch raises of a reader's end wherever the main thread is; here only where it waits, and can say what it was."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return
    handler = signal.getsignal(signal.SIGCHLD)
    if callable(handler) and handler != _Wait.child_ended:
        _Wait.torch_handler = handler
        signal.signal(signal.SIGCHLD, _Wait.child_ended)


def _next(readers: _Readers, stopping: Callable[[], bool]) -> Any:
    _Wait.is_on = True
    try:
        if any(process.exitcode for process in readers._workers):
            raise RuntimeError(_DIED)
        while True:
            try:
                return next(readers)
            except RuntimeError as error:
                # The signal may have ended a reader too, one that had just begun and did not ignore it yet.
                if stopping():
                    raise Stopped("stopped while rows were read.") from None
                if not str(error).startswith(_LATE):
                    raise
    finally:
        _Wait.is_on = False


def _kill(workers: Sequence[Any]) -> list[int]:
    """End reader processes after one has died: they ignore SIGTERM, and Python waits for them.

    Returns how those ended that have died: their exit status, or the negative number of their signal.
    """
    for process in workers:
        process.join(0)
    ends = [process.exitcode for process in workers if process.exitcode]
    for process in workers:
        process.kill()
    return ends


def _reader_ended(
    work: Callable[[Item], object], rows: Sequence[tuple[str, Item]], ends: Sequence[int]
) -> UserError:
    """The error that names the row whose reading ends a process; it is found by reading the rows in another one.

    Args:
        work: of the readers.
        rows: that they were at.
        ends: of the readers that ended, as `_kill` gives them.
    """
    if reason := next((reason for end in ends if (reason := reason_of(OSError(end, "")))), None):
        return UserError(
            f"training.workers: what a reader has read cannot be handed over: {reason}. {_FEWER}"
        )
    context = multiprocessing.get_context()
    at = context.Value("q", 0, lock=False)
    child = context.Process(target=_read_each, args=(work, [item for _, item in rows], at), daemon=True)
    child.start()
    child.join(_PATIENCE)
    if child.exitcode == 0 or not rows:
        between = f" between {rows[0][0]} and {rows[-1][0]}" if rows else ""
        text = ", ".join(map(_exit_text, ends)) or "of unknown cause"
        return ShardError(
            f"a reader process was ended ({text}) at a row{between}. Each of these rows alone is read without "
            "harm, so memory may be short: lower the number of workers, and look at /dev/shm."
        )
    ended = (
        f"ends the process ({_exit_text(child.exitcode)})" if child.exitcode else "does not come to an end"
    )
    child.kill()
    return ShardError(
        f"{rows[at.value][0]}: reading this row {ended}. Write its picture again, or take it out."
    )


def _read_each(work: Callable[[Item], object], items: Sequence[Item], at: Any) -> None:
    """Note the number of each item before it is read."""
    for number, item in enumerate(items):
        at.value = number
        with suppress(UserError):
            work(item)


def _exit_text(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"


class _Taken(Sampler[Item]):
    """Items, of which those that are handed out and not done yet are kept.

    Attributes:
        waiting: in their order; whoever gets an item's work back takes it out.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = items
        self.waiting: deque[Item] = deque()

    def __iter__(self) -> Iterator[Item]:
        for item in self._items:
            self.waiting.append(item)
            yield item


class _Slices(Sampler[BatchRows]):
    """This process's slices of every step."""

    def __init__(self, plan: Plan, steps: range, micro_batches: int, share: ProcessShare) -> None:
        self._plan, self._steps, self._micro_batches, self._share = plan, steps, micro_batches, share

    def __iter__(self) -> Iterator[BatchRows]:
        for step in self._steps:
            yield from self._plan.slices(step, self._share, self._micro_batches)

    def __len__(self) -> int:
        return len(self._steps) * self._micro_batches


class _Work(Dataset[Made | UserError], Generic[Item, Made]):
    """The work as DataLoader wants it: an index is an item.

    A user's error is handed over as a value: DataLoader would wrap one raised in a worker in a traceback.
    """

    def __init__(self, work: Callable[[Item], Made]) -> None:
        self._work = work

    def __getitem__(self, item: Item) -> Made | UserError:
        try:
            made = self._work(item)
            _share(made)
        except UserError as error:
            return error
        return made


def _share(made: object) -> None:
    """Put the tensors of what was made into shared memory, where DataLoader would put them later.

    It does so in a thread that loses what fails, and the run would wait for ever.

    Raises:
        UserError: there is no room, or there are too many open files.
    """
    tensors = list(_tensors(made))
    try:
        for tensor in tensors:
            tensor.share_memory_()
    except (RuntimeError, OSError) as error:
        if (reason := reason_of(error)) is None:
            raise
        size = sum(tensor.nbytes for tensor in tensors)
        free = f", /dev/shm has {megabytes(shutil.disk_usage(_SHARED).free)} free" if _SHARED.is_dir() else ""
        raise UserError(
            f"training.workers: a batch of {megabytes(size)} cannot be handed over by a reader{free}: {reason}. "
            f"{_FEWER}"
        ) from error


def _tensors(made: object) -> Iterator[Tensor]:
    if isinstance(made, Tensor):
        yield made
    elif isinstance(made, Mapping):
        yield from chain.from_iterable(map(_tensors, made.values()))
    elif isinstance(made, list | tuple):
        yield from chain.from_iterable(map(_tensors, made))
    elif is_dataclass(made) and not isinstance(made, type):
        yield from chain.from_iterable(_tensors(getattr(made, field.name)) for field in fields(made))


def _begin_reading(worker: int) -> None:
    """Called first in a reader process.

    Ctrl-C and SIGTERM reach the whole process group; the run still needs its readers to end its step. What cannot be
    handed over ends the reader: Python would print a traceback, and the run would wait for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Queue._on_queue_feeder_error = staticmethod(_cannot_hand_over)  # type: ignore[attr-defined]


def _cannot_hand_over(error: BaseException, made: object) -> NoReturn:
    os._exit(error_number(error) or 1)


def _as_it_is(batch: Any) -> Any:
    return batch
