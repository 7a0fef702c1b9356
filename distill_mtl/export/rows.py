"""Real pictures for the check and for calibration: rows of the run's own data, or of shards that are named."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from distill_mtl.data import DataSettings, Sources, open_sources
from distill_mtl.data.batch import Batch, BatchRows
from distill_mtl.data.shard_sets import as_patterns, find_sets
from distill_mtl.errors import ExportError, UserError
from distill_mtl.export.deployable import Deployable
from distill_mtl.export.format import Order
from distill_mtl.geometry.views import Size
from distill_mtl.recipe import Recipe, load_recipe
from distill_mtl.recipe.schema import AugmentSection, SourceSection
from distill_mtl.splits import Split
from distill_mtl.tasks.base import TaskKind

_SIZES = (1, 3, 2)
"""Rows of the first batches; the others hold what is left, up to `_MOST`. The graph was recorded with 2."""
_MOST = 32


@dataclass(frozen=True)
class Seen:
    """Rows in one batch.

    Attributes:
        images: float32 [B, 3, H, W] in [0, 1], of whole steps of 1/255.
        keys: identities of the rows.
    """

    images: Tensor
    keys: list[str]


class RealRows:
    """The rows of an order.

    Raises:
        ExportError: there is neither a recipe nor `--data`.
        UserError: the data is gone, or cannot be read.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._kinds: Mapping[str, TaskKind] = order.trained.load().student.kinds
        if order.trained.recipe is None and not order.data:
            raise ExportError(
                f"{order.trained.folder} lies in no run, and an export is compared with the student on real pictures. "
                "Name some shards with --data."
            )
        self._contract = order.student.trunk.inputs

    def for_check(self, module: Deployable) -> list[Seen]:
        """Test rows in batches of different numbers of rows; where any size will do, in several sizes too."""
        size = self._contract.size
        if module.pixels != "normalised":
            size = (size[0] + size[0] // 2, size[1] + size[1] // 4)
        images, keys = self.take("test", self._order.rows, size)
        images = images.float() / 255
        batches, first, sizes = [], 0, iter(_SIZES)
        while first < len(keys):
            last = first + next(sizes, _MOST)
            batches.append(Seen(images[first:last], keys[first:last]))
            first = last
        if module.pixels != "normalised" and len(batches) > 1:
            height, width = self._contract.size
            own, tall = batches[0].images[..., :height, :width], batches[1].images[..., : max(1, width // 2)]
            batches[0], batches[1] = Seen(own, batches[0].keys), Seen(tall, batches[1].keys)
        return batches

    def take(self, split: Split, number: int, size: Size) -> tuple[Tensor, list[str]]:
        """uint8 [N, 3, H, W], N = number or as many as there are, without augmentation; and the rows' keys."""
        sources = self.sources(size)
        batches = list(
            self._unlabelled(sources, number) if self._order.data else self._labelled(sources, split, number)
        )
        keys = [key for batch in batches for key in batch.keys]
        if not keys:
            raise ExportError(f"there is no {split} row to look at. Name some shards with --data.")
        return torch.cat([batch.images for batch in batches])[:number], keys[:number]

    def sources(self, size: Size) -> Sources:
        """The data, with pictures of this size."""
        try:
            return open_sources(self._settings, self._kinds, size, every_set=False)
        except UserError as error:
            if self._order.data:
                raise
            raise ExportError(
                f"the rows of the run's own recipe cannot be read, and an export is compared with the student on real "
                f"pictures. Name other shards with --data. {error}"
            ) from error

    @cached_property
    def recipe(self) -> Recipe:
        """Of the run."""
        assert self._order.trained.recipe is not None
        return load_recipe(self._order.trained.recipe)

    @property
    def _settings(self) -> DataSettings:
        """The given shards as a source without labels, or the run's own data."""
        if not self._order.data:
            return DataSettings.of(self.recipe)
        shards = as_patterns([path for paths in find_sets(self._order.data).values() for path in paths])
        plain = AugmentSection(crop=None, flip=False, color=0)
        return DataSettings({"data": SourceSection(shards=shards or [], augment=plain)})

    def _labelled(self, sources: Sources, split: Split, number: int) -> Iterator[Batch]:
        """Of every exported task alike many rows, spread evenly over its set."""
        tasks = [task for task in self._order.tasks if sources.count(task, split)]
        for place, task in enumerate(tasks):
            share = (number * (place + 1)) // len(tasks) - (number * place) // len(tasks)
            if share:
                yield from sources.labelled(task, split, _MOST, limit=share)

    def _unlabelled(self, sources: Sources, number: int) -> Iterator[Batch]:
        rows = np.asarray(sources.opened[0].sets["train"])
        chosen = rows[np.linspace(0, len(rows) - 1, min(number, len(rows))).astype(np.int64)]
        for first in range(0, len(chosen), _MOST):
            part = chosen[first : first + _MOST]
            none = np.zeros_like(part)
            yield sources.training_rows(BatchRows(none, none, part))
