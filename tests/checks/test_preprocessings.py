"""The search for classes in another order looks at the pixels that have one."""

from types import SimpleNamespace
from typing import Any

import torch
from torch.nn import functional as F

from distill_mtl.checks.preprocessings import class_order
from distill_mtl.tasks.base import build_kind


def test_ignored_pixels_suggest_no_order_whatever_their_number_is() -> None:
    """Class 0 is ignored, and what the teacher says there, mostly class 1, would outvote its right answers."""
    kind = build_kind("segmentation", ("void", "road", "sky"), ignore_index=0)
    labels = torch.zeros(1, 8, 8, dtype=torch.int64)
    labels[0, 0], labels[0, 1] = 1, 2
    decided = labels.where(labels > 0, 1)
    batch: Any = SimpleNamespace(images=torch.zeros(1, 3, 8, 8), labels={"it": labels})

    def teacher(images: torch.Tensor) -> Any:
        return SimpleNamespace(logits=F.one_hot(decided, 3).movedim(-1, 1).float())

    assert class_order(teacher, kind, "it", [batch]) is None  # type: ignore[arg-type]
