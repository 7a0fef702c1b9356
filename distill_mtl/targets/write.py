"""Write the target cache: every teacher runs once over the training rows.

A unit is one shard and all its teachers: its pictures are decoded once, its files appear whole when the
unit is done. So a stopped command loses at most the unit it was at, and processes share units, not rows.
"""

from collections import defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from distill_mtl.data.batch import Integers
from distill_mtl.data.reader import EveryView, Reader
from distill_mtl.data.stream import read_ahead
from distill_mtl.errors import CacheError
from distill_mtl.files import refuse_full_disks
from distill_mtl.reading import Remedy
from distill_mtl.recipe.schema import teacher_place
from distill_mtl.targets.bucket_sidecars import send_sidecars
from distill_mtl.targets.cached import check_sidecar
from distill_mtl.targets.live import LiveTeachers
from distill_mtl.targets.plan import BOXES, FLIPS, SidecarFolders, Unit, Wanted
from distill_mtl.targets.sidecar import Writer, write_sidecar

_ROOM = Remedy(
    "Make room there, or cache less: fewer targets.views, targets.features int8, hints pooled, targets.top_k.",
    CacheError,
)


class CacheWriter:
    """Writes the sidecars of units.

    Args:
        reader: of the plan's rows, under as many views as the plan has.
        teachers: on the device, each in the precision of its targets.
        folder_of: shard -> where its sidecars go.
        rows_at_once: rows that are read together; their views go through a teacher together.
        workers: reader processes; 0 reads in this one.
        device: of the images.
        made: task -> text for the headers that says how the numbers were made.
        shared: other machines wait for the sidecars of a shard in a bucket, so they must arrive there.
    """

    def __init__(
        self,
        reader: Reader,
        teachers: LiveTeachers,
        folder_of: Callable[[Path], Path],
        *,
        rows_at_once: int,
        workers: int,
        device: torch.device,
        made: Mapping[str, Mapping[str, str]],
        shared: bool = False,
    ) -> None:
        self._reader, self._teachers, self._folder_of, self._shared = reader, teachers, folder_of, shared
        self._rows_at_once, self._workers = rows_at_once, workers
        self._device, self._made = device, made

    def write(
        self, units: Sequence[Unit], stopping: Callable[[], bool] = lambda: False
    ) -> Generator[int, None, None]:
        """Write every sidecar of the units, and yield the number of rows after each block of them.

        Args:
            units: whose sidecars are to be written.
            stopping: whether to wait no longer for rows that reader processes are at.

        Raises:
            Stopped: `stopping` came to be while rows were due.
            CacheError: a file cannot be written, or an answer cannot be kept in the numbers asked for.
            ShardError: a row cannot be read; with `shared`, the bucket does not take a file.
        """
        blocks = [self._blocks(unit) for unit in units]
        read, one_by_one = self._reader.every_view, self._reader.one_view_by_one
        every = [block for of_unit in blocks for block in of_unit]
        seen = read_ahead(read, every, self._workers, one_by_one, stopping)
        for unit, of_unit in zip(units, blocks, strict=True):
            with ExitStack() as files:
                writers = {
                    task: files.enter_context(self._new(wanted)) for task, wanted in unit.files.items()
                }
                for _, rows in of_unit:
                    self._put(unit, writers, next(seen))
                    yield len(rows)
            send_sidecars(unit, may_stay=not self._shared)

    def _blocks(self, unit: Unit) -> list[tuple[int, Integers]]:
        rows = unit.shard.rows
        return [
            (unit.source, rows[first : first + self._rows_at_once])
            for first in range(0, len(rows), self._rows_at_once)
        ]

    def _new(self, wanted: Wanted) -> AbstractContextManager[Writer]:
        path = self._folder_of(wanted.shard.path) / wanted.name
        metadata = {**wanted.metadata, **self._made.get(wanted.teacher, {})}
        return write_sidecar(path, metadata, wanted.tensors, (BOXES, FLIPS))

    @torch.no_grad()
    def _put(self, unit: Unit, writers: Mapping[str, Writer], seen: EveryView) -> None:
        """Every teacher's answers about one block of rows."""
        rows, views = seen.flips.shape
        framing = {BOXES: seen.boxes.numpy(), FLIPS: seen.flips.numpy()}
        images = seen.images.to(self._device, non_blocking=True).float().div_(255)
        outputs = self._teachers.everything(images, writers)
        for name, writer in writers.items():
            try:
                encoded = unit.files[name].codec.encode(outputs[name])
            except ValueError as error:
                raise CacheError(
                    f"{teacher_place(name)}: its answers for rows of {unit.shard.path} cannot be cached: {error}."
                ) from None
            by_row = {name: array.reshape(rows, views, *array.shape[1:]) for name, array in encoded.items()}
            writer.put({**by_row, **framing})


def unfinished(units: Sequence[Unit], folders: SidecarFolders) -> list[Unit]:
    """The units that are not complete, with the sidecars that they lack."""
    left = []
    for unit in units:
        files = {task: wanted for task, wanted in unit.files.items() if not _is_there(wanted, folders)}
        if files:
            left.append(replace(unit, files=files))
    return left


def refuse_too_large(units: Sequence[Unit], folders: SidecarFolders) -> None:
    """Refuse to start without enough disk space.

    Raises:
        CacheError: a disk has less room than its sidecars will take.
    """
    needed: dict[Path, int] = defaultdict(int)
    for unit in units:
        needed[folders.to_write(unit.shard.path)] += sum(wanted.size for wanted in unit.files.values())
    refuse_full_disks(needed, "the target cache", _ROOM)


def _is_there(wanted: Wanted, folders: SidecarFolders) -> bool:
    try:
        check_sidecar(wanted, folders)
    except CacheError:
        return False
    return True
