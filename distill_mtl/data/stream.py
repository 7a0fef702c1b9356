"""The training stream: the rows of each step, and their batches.

The plan says which rows a step has; `stream` cuts each step into one slice per process and micro-batch
and has the slices read, here or by worker processes. So the union of two
processes' slices is one process's batch, and resuming is a step number (DESIGN 4.24).
"""

import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from distill_mtl.data.batch import ALONE, Batch, BatchRows, ProcessShare
from distill_mtl.data.batch_plan import Plan
from distill_mtl.data.reader import Reader
from distill_mtl.errors import UserError

Item = TypeVar("Item")
Made = TypeVar("Made")


def stream(
    plan: Plan,
    reader: Reader,
    steps: range,
    *,
    micro_batches: int = 1,
    share: ProcessShare = ALONE,
    workers: int = 0,
) -> Iterator[Batch]:
    """The batches of one process, `micro_batches` for each step.

    Args:
        plan: which rows.
        reader: how they are read.
        steps: the steps to go through.
        micro_batches: parts of a process's rows of a step.
        share: this process among all.
        workers: reader processes; 0 reads in this one.

    Raises:
        UserError: what a row's reading raises, as soon as its batch is due.
    """
    return read_ahead(reader.training, _Slices(plan, steps, micro_batches, share), workers)


def read_ahead(work: Callable[[Item], Made], items: Iterable[Item], workers: int) -> Iterator[Made]:
    """`work` done on each item, in their order: here, or ahead of time by other processes.

    Args:
        work: travels to the other processes, and what it makes travels back.
        items: what to do it on.
        workers: reader processes; 0 works in this one.

    Raises:
        UserError: what `work` raises, as soon as its item is due.
    """
    if workers == 0:
        yield from map(work, items)
        return
    loader = DataLoader(
        _Work(work),
        sampler=items,
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=torch.cuda.is_available(),
        # DataLoader draws a seed when it starts; from its own generator, so that the run's stays untouched.
        generator=torch.Generator(),
        worker_init_fn=_leave_signals_to_the_run,
    )
    for made in loader:
        if isinstance(made, UserError):
            raise made
        yield made


class _Slices(Sampler[BatchRows]):
    """This process's slices of every step.

    A step's rows stand source after source, so taking every n-th row gives each slice the mix of the whole.
    """

    def __init__(self, plan: Plan, steps: range, micro_batches: int, share: ProcessShare) -> None:
        self._plan, self._steps = plan, steps
        self._mine = range(share.rank * micro_batches, (share.rank + 1) * micro_batches)
        self._stride = share.world * micro_batches

    def __iter__(self) -> Iterator[BatchRows]:
        for step in self._steps:
            picks = self._plan(step)
            for first in self._mine:
                yield picks[first :: self._stride]

    def __len__(self) -> int:
        return len(self._steps) * len(self._mine)


class _Work(Dataset[Made | UserError], Generic[Item, Made]):
    """The work as DataLoader wants it: an index is an item.

    A user's error is handed over as a value: DataLoader would wrap one raised in a worker in a traceback.
    """

    def __init__(self, work: Callable[[Item], Made]) -> None:
        self._work = work

    def __getitem__(self, item: Item) -> Made | UserError:
        try:
            return self._work(item)
        except UserError as error:
            return error


def _leave_signals_to_the_run(worker: int) -> None:
    """Ctrl-C and SIGTERM reach the whole process group; the run still needs its readers to end its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _as_it_is(batch: Any) -> Any:
    return batch
