"""The interval around a difference of two networks' scores, by resampling groups of rows.

Rows that share something (a patient, a scene, a source digit) are not independent witnesses: an
interval that resamples rows would be too narrow. Both networks are scored on the same resample, so
that what is hard about a group cancels in the difference. Called by `compare`.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.special import ndtr, stdtrit
from torch import Tensor

LEVEL = 0.95
_NUMBERS_AT_ONCE = 4_000_000  # float64 numbers per matrix: 32 MB


Score = Callable[[Tensor, Tensor], Tensor]
"""Statistics [R, K] and how often each row counts [S, R] -> [S]; a kind's `score`."""


def paired_interval(
    groups: Sequence[str],
    student: Tensor,
    teacher: Tensor | None,
    score: Score,
    *,
    additive: bool = True,
    resamples: int,
    seed: int,
) -> tuple[float, float] | None:
    """The 95 % interval of score(student) - score(teacher): percentiles over resampled groups.

    The nonparametric bootstrap of Efron & Tibshirani (1993), chapters 6 and 13, with groups as the
    unit that is drawn (the cluster bootstrap; Field & Welsh 2007). A resample says how often each row counts.

    Args:
        groups: of each row.
        student: float64 [R, K], statistics of the rows.
        teacher: of the same rows in the same order; None: the interval of the student's own score.
        score: from statistics and weights.
        additive: scores follow from sums, so that groups are summed once and not in every resample.
        resamples: how many times as many groups as there are are drawn with replacement.
        seed: of the draws; the same seed draws the same groups for every pair of networks.

    Returns:
        (low, high), or None for fewer than two groups, which say nothing about how groups differ.
    """
    deltas = resampled_differences(
        groups, student, teacher, score, additive=additive, resamples=resamples, seed=seed
    )
    return None if deltas is None else interval_of(deltas, len(set(groups)))


def resampled_differences(
    groups: Sequence[str],
    student: Tensor,
    teacher: Tensor | None,
    score: Score,
    *,
    additive: bool = True,
    resamples: int,
    seed: int,
) -> Tensor | None:
    """float64 [S]: the difference on each resample, of which `paired_interval` takes percentiles; None as there."""
    where = _positions(groups)
    count = int(where.max()) + 1 if len(where) else 0
    if count < 2:
        return None
    networks = [network for network in (student, teacher) if network is not None]
    if additive:
        networks = [group_totals(groups, network) for network in networks]
    generator = np.random.default_rng(seed)
    chunk = max(1, _NUMBERS_AT_ONCE // max(networks[0].shape))
    deltas = []
    for first in range(0, resamples, chunk):
        weights = draw_counts(generator, min(chunk, resamples - first), count)
        weights = weights if additive else weights[:, where]
        scores = [score(network, weights) for network in networks]
        deltas.append(scores[0] - scores[1] if teacher is not None else scores[0])
    return torch.cat(deltas)


def interval_of(deltas: Tensor, groups: int) -> tuple[float, float]:
    """Both ends, from what the resamples [S] of so many groups gave."""
    low, high = percentiles(deltas, groups)
    return float(low), float(high)


def draw_counts(generator: np.random.Generator, resamples: int, groups: int) -> Tensor:
    """float64 [resamples, groups]: how often each group is drawn, each line summing to `groups`."""
    drawn = generator.integers(groups, size=(resamples, groups))
    drawn += np.arange(resamples)[:, None] * groups
    counts = np.bincount(drawn.ravel(), minlength=resamples * groups)
    return torch.from_numpy(counts.reshape(resamples, groups).astype(np.float64))


def percentiles(deltas: Tensor, groups: int) -> Tensor:
    """float64 [2, ...]: both ends of the interval, from what resamples gave [S, ...].

    Plain percentiles are too narrow for few groups, as a variance over n where n - 1 is right and a normal quantile
    where a t quantile is. So the share left out at each end is that of the expanded percentile interval (Hesterberg
    2015, "What Teachers Should Know About the Bootstrap", The American Statistician 69(4)).
    """
    quantile = stdtrit(groups - 1, (1 + LEVEL) / 2)
    tail = float(ndtr(-math.sqrt(groups / (groups - 1)) * quantile))
    return torch.from_numpy(np.quantile(deltas.numpy(), [tail, 1 - tail], axis=0))


def unseen_difference(rows: int) -> tuple[float, float]:
    """The interval of a difference in points of 100 where two networks do not differ on any row.

    Resampling cannot draw what was never seen, so it would give an interval without width from a handful of rows. At
    the same level at most 1 - 0.025^(1/n) of the rows can differ, as none of n did (Clopper & Pearson 1934, the
    "rule of three" for 95 % on one side), each by no more than the 100 points that there are: about 369 / n points.

    Rows count here, not groups. Resampled groups with a single differing row draw it up to three times, so the
    bootstrap reaches 300 / n points however the rows are grouped. A share of whole groups would leave many times as
    much open for no difference as for one; this share leaves about as much. It takes rows for independent, which the
    rows of a group that all go wrong together are not.
    """
    most = 100 * (1 - ((1 - LEVEL) / 2) ** (1 / rows))
    return -most, most


def rows_to_exclude(loss: float) -> int:
    """How many rows without any difference exclude a loss of so many points: `unseen_difference` the other way."""
    return math.floor(math.log((1 - LEVEL) / 2) / math.log1p(-loss / 100)) + 1


def group_totals(groups: Sequence[str], statistics: Tensor) -> Tensor:
    """float64 [G, K]: statistics [R, K] summed by group, groups in the order of their names."""
    where = _positions(groups)
    totals = torch.zeros(len(set(groups)), statistics.shape[1], dtype=torch.float64)
    return totals.index_add_(0, where, statistics.double())


def _positions(groups: Sequence[str]) -> Tensor:
    """int64 [R]: the number of each row's group, in the order of their names."""
    position = {name: index for index, name in enumerate(sorted(set(groups)))}
    return torch.tensor([position[name] for name in groups], dtype=torch.long)
