"""Answers as values that JSON knows."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

_DIGITS = 7
"""More a float32 does not hold."""


def plain(values: Tensor) -> Any:
    """Numbers, or nested lists of them, with as many digits as float32 has; None for what is not finite."""
    return _plain(values.tolist())


def ranked(classes: Sequence[str], probabilities: Tensor, most: int) -> list[dict[str, Any]]:
    """The likeliest classes, likeliest first.

    Args:
        classes: C names.
        probabilities: [C].
        most: how many at most.
    """
    best = probabilities.topk(min(most, len(classes)))
    return [
        {"label": classes[place], "probability": plain(probability)}
        for probability, place in zip(best.values, best.indices.tolist(), strict=True)
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    return value
