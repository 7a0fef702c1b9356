"""Targets read from a cache: training without a teacher."""

import torch
from torch import Tensor

from distill_mtl.data.batch import Batch
from distill_mtl.targets.base import Rows, TargetSource
from distill_mtl.targets.encoding import AnswerCodec
from distill_mtl.targets.opened import OpenCache
from distill_mtl.teachers.output import TeacherOutput


class CachedTargets(TargetSource):
    """What teachers said about the rows of a batch, under the very views that its images show.

    It lives in the process that trains and looks rows up by their numbers, wherever they were read.

    Args:
        cache: opened; the batches must come from its own views.
        codecs: task -> how its teacher's answers are kept.
        on: which rows of a batch are looked up.

    Attributes:
        cache: the opened one.
    """

    def __init__(self, cache: OpenCache, codecs: dict[str, AnswerCodec], on: Rows = "missing") -> None:
        super().__init__(codecs, on)
        self.cache, self._codecs = cache, codecs

    def ask(self, task: str, batch: Batch, rows: Tensor | None = None) -> TeacherOutput:
        source, row, view = (
            (column if rows is None else column[rows]).numpy()
            for column in (batch.source, batch.row, batch.view)
        )
        if len(view) and view.min() < 0:
            raise ValueError("the batch was seen under fresh views, for which nothing is cached")
        codec = self._codecs[task]
        stored = self.cache.rows(task, list(codec.slots), source, row, view)
        return codec.decode(stored, batch.images.device)

    def to(self, device: torch.device | str) -> "CachedTargets":
        return self
