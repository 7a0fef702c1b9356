"""Rows of several tasks in one pass of a trunk: those that any task asks about run, and each task takes its own."""

from collections.abc import Mapping

import torch
from torch import Tensor


def union_of(rows: Mapping[str, Tensor]) -> Tensor:
    """int64 [U]: the rows that some task asks about, ascending; task -> int64 [R], ascending, on the host."""
    return next(iter(rows.values())) if len(rows) == 1 else torch.cat(list(rows.values())).unique()


def seen(images: Tensor, union: Tensor) -> Tensor:
    """[U, ...]: the images [B, ...] of these rows."""
    return images if len(union) == len(images) else images[union.to(images.device, non_blocking=True)]


def only(features: Mapping[str, Tensor], union: Tensor, rows: Tensor) -> Mapping[str, Tensor]:
    """What came out of the pass, first dimension U, for some of its rows."""
    if len(rows) == len(union):
        return features
    places = torch.searchsorted(union, rows)
    return {name: value[places.to(value.device, non_blocking=True)] for name, value in features.items()}
