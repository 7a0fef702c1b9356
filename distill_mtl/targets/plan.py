"""What the cache of a recipe is made of: for every shard with training rows, one sidecar per teacher.

Writing, verifying and training all start from this plan, so what is written is what is looked for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from distill_mtl.data.source import ShardRows, Source
from distill_mtl.geometry.views import Size
from distill_mtl.targets.encoding import AnswerCodec
from distill_mtl.targets.identity import TEACHER, fingerprint, identity
from distill_mtl.targets.places import file_name
from distill_mtl.targets.sidecar import Slot, sidecar_size

BOXES, FLIPS = "boxes", "flips"


@dataclass(frozen=True)
class Wanted:
    """One sidecar as a recipe wants it.

    Attributes:
        shard: and its training rows.
        task: whose teacher answers.
        codec: the teacher's.
        views: of each row.
        identity: what the contents depend on.
    """

    shard: ShardRows
    task: str
    codec: AnswerCodec
    views: int
    identity: Mapping[str, str]

    @cached_property
    def fingerprint(self) -> str:
        """Twelve digits that stand for the identity."""
        return fingerprint(self.identity)

    @property
    def name(self) -> str:
        """Of the file."""
        return file_name(self.shard.path, self.task, self.fingerprint)

    @property
    def metadata(self) -> dict[str, str]:
        """The header's text: the identity, and the facts of the teacher."""
        return {**self.identity, "task": self.task, TEACHER: self.codec.facts.json}

    @property
    def tensors(self) -> dict[str, Slot]:
        """Every tensor of the file: [N, V, ...] for N rows in shard order under V views."""
        slots = {
            **self.codec.slots,
            BOXES: Slot(np.dtype(np.int32), (4,)),
            FLIPS: Slot(np.dtype(np.uint8), ()),
        }
        rows = (len(self.shard.rows), self.views)
        return {name: Slot(slot.dtype, (*rows, *slot.shape)) for name, slot in slots.items()}

    @cached_property
    def size(self) -> int:
        """Of the file in bytes, but for a few that say how it was made."""
        return sidecar_size(self.metadata, self.tensors, (BOXES, FLIPS))


@dataclass(frozen=True)
class Unit:
    """One shard and the sidecars of all teachers: what a process does in one go.

    Attributes:
        source: number of the data set.
        shard: and its training rows.
        files: task -> its sidecar.
    """

    source: int
    shard: ShardRows
    files: Mapping[str, Wanted]


def plan_cache(
    sources: Sequence[Source], codecs: Mapping[str, AnswerCodec], *, views: int, size: Size, seed: int
) -> list[Unit]:
    """The units of a recipe, in the order of its sources and their shards; the same on every process.

    Args:
        sources: all data sets.
        codecs: task -> codec of its teacher.
        views: of each row.
        size: height and width of the images.
        seed: of the recipe.
    """
    units = []
    for number, source in enumerate(sources):
        for shard in source.by_shard("train"):
            files = {
                task: Wanted(
                    shard,
                    task,
                    codec,
                    views,
                    identity(shard, source, codec, views=views, size=size, seed=seed),
                )
                for task, codec in codecs.items()
            }
            units.append(Unit(number, shard, files))
    return units


def megabytes(size: int) -> str:
    """Bytes as people say them: `310 MB`, with two digits that count."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.{0 if size >= 10 * factor else 1}f} {unit}"
    return f"{max(1, round(size / 1e3))} kB"
