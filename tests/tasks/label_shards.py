"""Labels through a real shard: written as users write them, read as a run reads them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import toy_world
from torch import Tensor

from distill_mtl.data import DataSettings, open_sources
from distill_mtl.recipe.schema import LabelSection, SourceSection
from distill_mtl.tasks.base import TaskKind


def read_back(folder: Path, kind: TaskKind, payloads: Sequence[bytes], member: str | None = None) -> Tensor:
    """The labels [R, ...] of the rows that have one, from one member of a shard written here."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    toy_world.write_rows(
        folder / "rows.tar",
        (
            {"__key__": f"{row:03d}", "png": toy_world.png(pixels), (member or kind.member): payload}
            for row, payload in enumerate(payloads)
        ),
    )
    rows = SourceSection(shards=[str(folder / "rows.tar")], labels={"task": LabelSection(member=member)})
    sources = open_sources(DataSettings({"rows": rows}), {"task": kind}, (8, 8), every_set=False)
    (batch,) = sources.labelled("task", None, len(payloads))
    return batch.labels["task"]
