"""Verify a cache: run some rows through the teachers again and compare number by number."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distill_mtl.data.all_sources import Sources
from distill_mtl.data.batch import Batch, BatchRows
from distill_mtl.errors import CacheError
from distill_mtl.targets.cached import OpenCache, StoredViews
from distill_mtl.targets.encoding import AnswerCodec
from distill_mtl.targets.live import LiveTeachers
from distill_mtl.targets.plan import Unit
from distill_mtl.targets.sidecar import Sidecar

_SHOWN = 5
_FULL_PRECISION, _HALF_PRECISION = 0.01, 0.06  # TF32 and bf16 on one side, fp32 on the other
_STEP = 1 / 127  # of int8


@dataclass(frozen=True)
class Verified:
    """The result of a comparison.

    Attributes:
        rows: how many rows and views were looked at.
        worst: task -> largest deviation, in shares of a row's largest number.
    """

    rows: int
    worst: Mapping[str, float]


def draw_rows(units: Sequence[Unit], views: int, count: int) -> BatchRows:
    """`count` rows of the cache at random, each in one of its views; all of them where there are fewer."""
    sources = np.concatenate([np.full(len(unit.shard.rows), unit.source) for unit in units])
    rows = np.concatenate([unit.shard.rows for unit in units])
    total = len(rows) * views
    drawn = np.array(sorted(random.sample(range(total), min(count, total))))
    return BatchRows(source=sources[drawn // views], epoch=drawn % views, row=rows[drawn // views])


class Verifier:
    """Compares rows of a cache with the teachers' answers.

    Args:
        cache: opened.
        codecs: task -> how its answers are kept.
        sources: drawing views, not replaying stored ones, so that these are compared too.
        teachers: on the device, each in the precision in which its answers were cached.
        device: of the images.
    """

    def __init__(
        self,
        cache: OpenCache,
        codecs: Mapping[str, AnswerCodec],
        sources: Sources,
        teachers: LiveTeachers,
        *,
        device: torch.device,
    ) -> None:
        self._cache, self._codecs, self._sources, self._teachers = cache, codecs, sources, teachers
        self._device = device

    def compare(self, blocks: Sequence[BatchRows]) -> Verified:
        """Run rows through the teachers and compare their answers with the cached ones.

        Args:
            blocks: rows, the epoch of each the number of its view.

        Raises:
            CacheError: rows that differ, each with what differs and by how much.
            ShardError: a row cannot be read.
        """
        worst = dict.fromkeys(self._codecs, 0.0)
        wrong: list[str] = []
        for block in blocks:
            batch = self._sources.training_rows(block)
            wrong += self._other_views(batch, block)
            images = batch.to(self._device).images
            for task in self._codecs:
                for name, deviation in self._deviations(task, batch, images).items():
                    worst[task] = max(worst[task], float(deviation.max()))
                    wrong += [
                        f"{_shown(batch, place)}: {name} of {task} lies {100 * deviation[place]:.1f} % off in "
                        f"{self._file(task, batch, place).path}"
                        for place, value in enumerate(deviation.tolist())
                        if not value <= self._tolerance(self._file(task, batch, place))
                    ]
        if wrong:
            raise CacheError(_report(wrong))
        return Verified(sum(map(len, blocks)), worst)

    @torch.no_grad()
    def _deviations(self, task: str, batch: Batch, images: Tensor) -> dict[str, Tensor]:
        codec = self._codecs[task]
        output = self._teachers.everything(images, [task])[task]
        columns = (batch.source.numpy(), batch.row.numpy(), batch.view.numpy())
        stored = self._cache.rows(task, list(codec.slots), *columns)
        return codec.deviations(codec.encode(output), stored)

    def _other_views(self, batch: Batch, block: BatchRows) -> list[str]:
        """Rows whose stored view shows another picture than the drawn one."""
        drawn = self._sources.training_views
        self._sources.see_under(StoredViews(self._cache))
        try:
            replayed = self._sources.training_rows(block)
        finally:
            self._sources.see_under(drawn)
        other = (replayed.images != batch.images).flatten(1).any(1).nonzero().flatten().tolist()
        return [
            f"{_shown(batch, place)}: box or flip are not the recipe's in "
            f"{self._file(next(iter(self._codecs)), batch, place).path}"
            for place in other
        ]

    def _file(self, task: str, batch: Batch, place: int) -> Sidecar:
        return self._cache.find(task, int(batch.source[place]), int(batch.row[place]))[0]

    def _tolerance(self, file: Sidecar) -> float:
        """Largest deviation that rounding and other kernels explain, in shares of a row's largest number."""
        rough = file.metadata.get("made.precision", "fp32") != "fp32"
        return (_HALF_PRECISION if rough else _FULL_PRECISION) + (_STEP if _has_int8(file) else 0.0)


def _has_int8(file: Sidecar) -> bool:
    return any(slot.dtype == np.int8 for slot in file.tensors.values())


def _shown(batch: Batch, place: int) -> str:
    return f"{batch.keys[place]}, view {batch.view[place]}"


def _report(wrong: Sequence[str]) -> str:
    shown = [*wrong[:_SHOWN], *([f"and {len(wrong) - _SHOWN} more"] if len(wrong) > _SHOWN else [])]
    return (
        "the cached targets differ from the teachers' answers:\n"
        + "\n".join(f"  {line}" for line in shown)
        + "\nDelete these files and run `distill-mtl cache` again."
    )
