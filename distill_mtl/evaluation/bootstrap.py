"""The interval around a difference of two networks' scores, by resampling groups of rows.

Rows that share something (a patient, a scene, a source digit) are not independent witnesses: an
interval that resamples rows would be too narrow. Both networks are scored on the same resample, so
that what is hard about a group cancels in the difference. Called by `compare`.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

LEVEL = 0.95
_NUMBERS_AT_ONCE = 4_000_000  # float64 numbers per matrix: 32 MB


def paired_interval(
    student: Tensor,
    teacher: Tensor,
    score: Callable[[Tensor], Tensor],
    *,
    resamples: int,
    seed: int,
) -> tuple[float, float] | None:
    """The 95 % interval of score(student) - score(teacher): percentiles over resampled groups.

    The nonparametric bootstrap of Efron & Tibshirani (1993), chapters 6 and 13, with groups as the
    unit that is drawn (the cluster bootstrap; Field & Welsh 2007). Scores follow from additive
    statistics, so a resample is a row of multinomial counts times the groups' statistics.

    Args:
        student: float64 [G, K], statistics summed by group.
        teacher: the same groups in the same order.
        score: [..., K] -> [...].
        resamples: how many times G groups are drawn with replacement.
        seed: of the draws; the same seed draws the same groups for every pair of networks.

    Returns:
        (low, high), or None for fewer than two groups, which say nothing about how groups differ.
    """
    groups, columns = student.shape
    if groups < 2:
        return None
    generator = np.random.default_rng(seed)
    chunk = max(1, _NUMBERS_AT_ONCE // max(groups, columns))
    deltas = []
    for first in range(0, resamples, chunk):
        counts = _draw_counts(generator, min(chunk, resamples - first), groups)
        deltas.append(score(counts @ student) - score(counts @ teacher))
    low, high = np.quantile(torch.cat(deltas).numpy(), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def group_totals(groups: Sequence[str], statistics: Tensor) -> Tensor:
    """float64 [G, K]: statistics [R, K] summed by group, groups in the order of their names."""
    position = {name: index for index, name in enumerate(sorted(set(groups)))}
    where = torch.tensor([position[name] for name in groups], dtype=torch.long)
    totals = torch.zeros(len(position), statistics.shape[1], dtype=torch.float64)
    return totals.index_add_(0, where, statistics.double())


def _draw_counts(generator: np.random.Generator, resamples: int, groups: int) -> Tensor:
    """float64 [resamples, groups]: how often each group is drawn, each line summing to `groups`."""
    drawn = generator.integers(groups, size=(resamples, groups))
    drawn += np.arange(resamples)[:, None] * groups
    counts = np.bincount(drawn.ravel(), minlength=resamples * groups)
    return torch.from_numpy(counts.reshape(resamples, groups).astype(np.float64))
