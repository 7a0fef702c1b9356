"""Pieces of a target cache that any process of a cluster can write: one shard, and the teachers of one trunk.

The process that starts plans the cache and examines the teachers. A `PieceWriter` travels to the others without
networks. There it opens the teachers of its piece, keeps them for the pieces that follow, and writes with the
`CacheWriter` that a single process uses, so the files are the same.
"""

import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from distill_mtl.cores import reader_workers
from distill_mtl.data.reader import Reader
from distill_mtl.errors import CacheError
from distill_mtl.recipe.schema import TaskSection, task_of, teacher_place
from distill_mtl.targets.live import LiveTeachers
from distill_mtl.targets.plan import SidecarFolders, Unit, Wanted
from distill_mtl.targets.write import CacheWriter
from distill_mtl.tasks.base import import_kind
from distill_mtl.teachers.load_teacher import teachers_of_task
from distill_mtl.teachers.shared_trunks import by_trunk, share_trunks
from distill_mtl.teachers.teacher import Teacher

_SHARE = "Put it into a folder that every node sees under this path"


@dataclass(frozen=True)
class CachePiece:
    """One shard and the teachers of one trunk.

    Attributes:
        unit: with the sidecars of these teachers alone.
        folder: where they go.
        gpu: whether the teachers run on a GPU.
    """

    unit: Unit
    folder: Path
    gpu: bool

    @property
    def rows(self) -> int:
        """Answers to be written, of each teacher one for each row."""
        return len(self.unit.shard.rows) * len(self.unit.files)

    def __str__(self) -> str:
        shard = self.unit.shard.url or self.unit.shard.path
        return f"{', '.join(map(teacher_place, self.unit.files))}, {shard}"

    def refuse_invisible(self, node: str) -> None:
        """Called on the machine that started, after a node has written the piece.

        Raises:
            CacheError: its files are not to be seen here.
        """
        for wanted in self.unit.files.values():
            path = self.folder / wanted.name
            if self.unit.shard.url is None and not path.exists():
                raise CacheError(
                    f"{path}: node {node} has written it, and it is not on this machine. All nodes must share the "
                    "folder of the shards and may write there; or put the shards into a bucket (`data.SOURCE.store`)."
                )


def cut_into_pieces(
    units: Iterable[Unit], teachers: Mapping[str, Teacher], folders: SidecarFolders, *, gpus: bool
) -> list[CachePiece]:
    """The pieces of units, all shards of one trunk and then of the next, so that a process seldom opens another.

    Args:
        units: what is missing.
        teachers: by name.
        folders: of this machine.
        gpus: whether there are some.
    """
    units, pieces = list(units), list[CachePiece]()
    for group in by_trunk(dict(teachers)):
        on_gpu = gpus and any(_may_use_gpu(teacher) for teacher in group.values())
        for unit in units:
            if files := {name: unit.files[name] for name in group if name in unit.files}:
                folder = folders.to_write(unit.shard.path)
                pieces.append(CachePiece(replace(unit, files=files), folder, on_gpu))
    return pieces


def _may_use_gpu(teacher: Teacher) -> bool:
    return teacher.fixed_device is None or teacher.fixed_device.type != "cpu"


class PieceWriter:
    """Writes pieces in a process of a cluster; it travels there without networks.

    Args:
        reader: of the plan's rows.
        sections: task -> of the recipe, as its teachers were opened.
        rows_at_once: as in `CacheWriter`.
        workers: reader processes beside a GPU, as in a recipe.
        made: as in `CacheWriter`, with the precision of each teacher.
    """

    def __init__(
        self,
        reader: Reader,
        sections: Mapping[str, TaskSection],
        *,
        rows_at_once: int,
        workers: int | None,
        made: Mapping[str, Mapping[str, str]],
    ) -> None:
        self._reader, self._sections, self._made = reader, dict(sections), made
        self._rows_at_once, self._workers = rows_at_once, workers
        self._opened: tuple[tuple[str, ...], LiveTeachers] | None = None

    def write(self, piece: CachePiece) -> str:
        """Write the sidecars of a piece; the name of this machine.

        Raises:
            CacheError: the shard is not here, or is another one; a teacher's file is another one; as in `CacheWriter`.
            TeacherError: a teacher cannot be opened here.
            ShardError: a row cannot be read, or the bucket does not take the sidecars.
        """
        _refuse_other_shard(piece.unit)
        device = torch.device("cuda" if piece.gpu else "cpu")
        writer = CacheWriter(
            self._reader,
            self._teachers(piece.unit.files, device),
            lambda shard: piece.folder,
            rows_at_once=self._rows_at_once,
            # Without a GPU the piece has one core.
            workers=reader_workers(self._workers, device) if piece.gpu else 0,
            device=device,
            made=self._made,
            shared=True,
        )
        for _ in writer.write([piece.unit]):
            pass
        return socket.gethostname()

    def _teachers(self, files: Mapping[str, Wanted], device: torch.device) -> LiveTeachers:
        """The teachers of some sidecars; those of the last piece are kept."""
        names = tuple(files)
        if self._opened is None or self._opened[0] != names:
            self._opened = None  # its memory is free before others come
            teachers = self._open(names)
            for name, wanted in files.items():
                _refuse_other_teacher(teachers[name], wanted)
            precisions = {name: self._made[name]["made.precision"] for name in names}
            self._opened = names, LiveTeachers(teachers, precisions=precisions).to(device)
        return self._opened[1]

    def _open(self, names: Sequence[str]) -> dict[str, Teacher]:
        opened: dict[str, Teacher] = {}
        for task in dict.fromkeys(map(task_of, names)):
            section = self._sections[task]
            import_kind(section.kind, trust=section.trust, say="`trust: true` beside it")
            opened |= teachers_of_task(task, section)
        teachers = {name: opened[name] for name in names}
        share_trunks(teachers.values())
        return teachers

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}


def write_piece(writer: PieceWriter, piece: CachePiece) -> str:
    """`PieceWriter.write` as a function, which a task of a cluster is."""
    return writer.write(piece)


def _refuse_other_shard(unit: Unit) -> None:
    path, expected = unit.shard.path, unit.shard.size
    if unit.shard.url is not None:
        return  # it comes from its bucket, as it was described
    try:
        size = path.stat().st_size
    except OSError as error:
        raise CacheError(
            f"{path} cannot be read there ({error.strerror}). {_SHARE}, or into a bucket (`data.SOURCE.store`)."
        ) from None
    if size != expected:
        raise CacheError(
            f"{path} has {size:,} bytes there, and {expected:,} on the machine that started. {_SHARE}."
        )


def _refuse_other_teacher(teacher: Teacher, wanted: Wanted) -> None:
    expected, found = wanted.codec.facts.card, teacher.card
    if found.fingerprint != expected.fingerprint:
        raise CacheError(
            f"{found.file} (sha256 {found.sha256[:8]}) is another teacher there than on the machine that started "
            f"(sha256 {expected.sha256[:8]}). {_SHARE}."
        )
