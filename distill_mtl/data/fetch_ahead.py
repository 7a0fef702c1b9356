"""Shards come from the bucket before their rows are due: background threads follow the order of the rows.

The order is known, so there is nothing to guess: the next windows are fetched as far as the store has room, those that
are due first before the others. One process of a machine does it for all. What is not there when it is due comes on
demand.
"""

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, takewhile
from types import TracebackType
from typing import NamedTuple

from distill_mtl.data.batch import ProcessShare
from distill_mtl.data.batch_plan import Plan
from distill_mtl.data.shard_store import ShardStore
from distill_mtl.data.source import Source
from distill_mtl.data.windows import Window, Windows
from distill_mtl.errors import ShardError, UserError
from distill_mtl.remote_files import at_once
from distill_mtl.system_errors import megabytes

THREADS = 4
_GLANCE = 0.2  # seconds, after which it looks again where the run is and what is here
_STORES_AHEAD = 3  # of files that are looked at to know what is needed last
_SAY_EVERY = 10.0  # seconds
_log = logging.getLogger(__name__)


class Visit(NamedTuple):
    """Files that are read for a while.

    Attributes:
        first: position of the first row that needs them.
        end: one more than that of the last.
        paths: of the store.
    """

    first: int
    end: int
    paths: Sequence[str]


@dataclass
class ComingFiles:
    """What one part of a source needs from now on.

    Attributes:
        store: where the files come to.
        plan: of the run.
        part: which one of it.
        visits: by their first position.
        files: how many different ones there are.
    """

    store: ShardStore
    plan: Plan
    part: int
    visits: Iterator[Visit]
    files: int
    _known: deque[Visit] = field(default_factory=deque)

    def after(self, step: int) -> dict[str, float]:
        """File -> steps until it is needed, the next first; all files, or as many as fill the store several times."""
        position = int(self.plan.quota.before(step)[self.part])
        rate = max(1, int(self.plan.quota.before(step + 128)[self.part]) - position) / 128
        self._known = deque(visit for visit in self._known if visit.end > position)
        due: dict[str, float] = {}
        size = 0
        for visit in chain(self._known, self._more(position)):
            for path in visit.paths:
                if path not in due:
                    due[path] = max(0, visit.first - position) / rate
                    size += self.store.size(path)
            if len(due) == self.files or size > _STORES_AHEAD * self.store.limit:
                break
        return due

    def _more(self, position: int) -> Iterator[Visit]:
        """Visits that were not looked at before."""
        for visit in self.visits:
            if visit.end > position:
                self._known.append(visit)
                yield visit


def coming_files(
    plan: Plan, sources: Sequence[Source], steps: range, share: ProcessShare, local: ProcessShare
) -> list[ComingFiles]:
    """What the processes of this machine need of every source with a store, in some steps of a run.

    Args:
        plan: of the run.
        sources: of the plan.
        steps: of the run that are left.
        share: the first process of this machine among all.
        local: among those of this machine.
    """
    found = []
    for part, number in enumerate(plan.sources.tolist()):
        source, order = sources[number], plan.orders[part]
        if source.store is None:
            continue
        first, end = (int(plan.quota.before(step)[part]) for step in (steps.start, steps.stop))
        visits = iter([Visit(first, sys.maxsize, [str(path) for path in source.paths("train")])])
        if isinstance(order, Windows):
            ranks = range(share.rank, share.rank + local.world)
            lanes = [lane for lane in range(order.lanes) if lane % share.world in ranks]
            visits = _until(end, order.apart().ahead(first, lanes), source.shard_paths())
        found.append(ComingFiles(source.store, plan, part, visits, len(source.paths("train"))))
    return found


def refuse_small_stores(plan: Plan, sources: Sequence[Source], world: int, local: ProcessShare) -> None:
    """Refuse a store that does not hold the shards whose rows are drawn at the same time.

    Args:
        plan: of the run.
        sources: of the plan.
        world: processes in all.
        local: this process among those of this machine.

    Raises:
        ShardError: with both sizes.
    """
    for part, number in enumerate(plan.sources.tolist()):
        source, order = sources[number], plan.orders[part]
        if source.store is None:
            continue
        sizes = sorted((source.store.size(str(path)) for path in source.paths("train")), reverse=True)
        count, why = len(sizes), "order: rows draws from all shards at once"
        if isinstance(order, Windows):
            lanes = -(-order.lanes * min(local.world, world) // world)
            parts = int((plan.sources == number).sum())
            count = min(count, parts * lanes * source.section.window)
            why = f"{lanes} lanes draw from {source.section.window} shards each"
            why += ", for rows with labels and as many for the others" if parts > 1 else ""
        if (needed := sum(sizes[:count])) > source.store.limit:
            mend = (
                f"lower training.stream.lanes or data.{source.name}.window, or "
                if isinstance(order, Windows)
                else "use order: windows, or "
            )
            raise ShardError(
                f"data.{source.name}.store: {megabytes(source.store.limit)} do not hold the {count} shards that are "
                f"read at the same time, {megabytes(needed)} ({why}). Raise it, {mend}write smaller shards."
            )


def _until(end: int, windows: Iterator[Window], paths: Sequence[str]) -> Iterator[Visit]:
    """The windows that begin before the end of the run."""
    for window in takewhile(lambda one: one.first < end, windows):
        yield Visit(window.first, window.end, [paths[shard] for shard in window.shards])


class FetchAhead:
    """Threads that keep the stores filled with what is needed next. A context manager, which ends them.

    They run from `start` on. What is needed at once comes before (`bring_first`): reader processes are forked in
    between, and a process whose threads are at work cannot be.

    Args:
        coming: of every source with a store.
        step: whose rows are due.
    """

    def __init__(self, coming: Sequence[ComingFiles], step: int) -> None:
        self._coming, self._step = coming, step
        self._fetching: dict[str, Future[None]] = {}
        self._failed: set[str] = set()
        self._noted: dict[int, list[str]] = {}
        self._wake, self._ended = threading.Event(), False
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="fetch")
        self._thread = threading.Thread(target=self._run, name="fetch ahead", daemon=True)

    def __enter__(self) -> "FetchAhead":
        return self

    def bring_first(self) -> None:
        """Return once the files of the first rows are there, as far as they fit.

        Raises:
            ShardError: one of them cannot come.
        """
        for store, due in self._due().values():
            order = sorted(due, key=due.__getitem__)
            store.put_in_order(order)
            held = store.held()
            first = [path for path in _that_fit(order, store) if due[path] == 0 and path not in held]
            arriving = _Arriving(store, first)
            at_once(arriving.bring, first, THREADS)

    def start(self) -> None:
        """Begin to fetch ahead."""
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def at(self, step: int) -> None:
        """The rows of the steps before this one are not needed any more."""
        self._step = step

    def _run(self) -> None:
        while not self._ended:
            try:
                self._turn()
            except OSError as error:  # of the local disk: who reads the rows says it
                _log.debug("fetching ahead: %s", error)
            self._wake.wait(_GLANCE)
            self._wake.clear()

    def _turn(self) -> None:
        """Start what is to be fetched now."""
        self._fetching = {path: one for path, one in self._fetching.items() if not one.done()}
        wanted: list[tuple[float, str, ShardStore]] = []
        for key, (store, due) in self._due().items():
            held, order = store.held(), sorted(due, key=due.__getitem__)
            room = list(_that_fit(order, store))
            keep = held.union(room)
            if (named := [path for path in order if path in keep]) != self._noted.get(key):
                store.put_in_order(named)
                self._noted[key] = named
            wanted += [(due[path], path, store) for path in room if path not in held]
        for _, path, store in sorted(wanted, key=lambda one: one[0]):
            if len(self._fetching) < THREADS and path not in self._fetching and path not in self._failed:
                self._fetching[path] = self._pool.submit(self._fetch, store, path)

    def _due(self) -> dict[int, tuple[ShardStore, dict[str, float]]]:
        """Every store, and when its files are needed."""
        found: dict[int, tuple[ShardStore, dict[str, float]]] = {}
        for coming in self._coming:
            _, due = found.setdefault(id(coming.store), (coming.store, {}))
            for path, steps in coming.after(self._step).items():
                due[path] = min(steps, due.get(path, steps))
        return found

    def _fetch(self, store: ShardStore, path: str) -> None:
        try:
            store.bring(path, ahead=True)
        except (UserError, OSError) as error:  # who needs the file tries again, and says what is wrong
            _log.debug("%s", error)
            self._failed.add(path)
        self._wake.set()


class _Arriving:
    """Says now and then how many of some files have come."""

    def __init__(self, store: ShardStore, paths: Sequence[str]) -> None:
        self._store, self._count, self._here = store, len(paths), 0
        self._size = sum(map(store.size, paths))
        self._next = time.monotonic() + _SAY_EVERY / 4

    def bring(self, path: str) -> None:
        """Fetch one of them."""
        self._store.bring(path, ahead=True)
        self._here += 1
        if time.monotonic() > self._next:
            self._next = time.monotonic() + _SAY_EVERY
            of_all = f"{self._count} shards of the first rows ({megabytes(self._size)})"
            _log.info("%s: %d of the %s are here", self._store.owner, self._here, of_all)


def _that_fit(order: Sequence[str], store: ShardStore) -> Iterator[str]:
    """The first files of an order that the store has room for together."""
    total = 0
    for path in order:
        total += store.size(path)
        if total > store.limit:
            return
        yield path
