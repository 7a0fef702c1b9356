"""How alike two networks see the same rows: published measures between features, and between mistakes."""

import torch
from torch import Tensor


def rsa(first: Tensor, second: Tensor) -> float:
    """Rank correlation of the dissimilarities of pairs of rows (Dwivedi & Roig 2019; Vandenhende et al. 2020).

    Args:
        first, second: features [R, C] of the same rows.

    Returns:
        From -1 to 1: Spearman's correlation of the upper triangles of 1 - Pearson's correlation between rows. Pairs
        with a row whose features are all the same, which is correlated with nothing, do not count.
    """
    pairs = torch.triu_indices(len(first), len(first), 1)
    alike = torch.stack([torch.corrcoef(each.double())[pairs[0], pairs[1]] for each in (first, second)])
    alike = alike[:, alike.isfinite().all(0)]
    if alike.shape[1] < 2:
        return 0.0
    return float(torch.corrcoef(torch.stack([_ranks(each) for each in alike]))[0, 1].nan_to_num())


def cka(first: Tensor, second: Tensor) -> float:
    """Linear centred kernel alignment without the bias of few rows (Kornblith et al. 2019; Song et al. 2012).

    Args:
        first, second: features [R, C] of the same rows, R above 3.

    Returns:
        At most 1; about 0 for features that have nothing to do with each other.
    """
    kernels = []
    for each in (first, second):
        centred = each.double() - each.double().mean(0)
        kernel = centred @ centred.T
        kernels.append(kernel.fill_diagonal_(0))
    one, other = kernels
    scale = (_hsic(one, one) * _hsic(other, other)).clamp(min=0).sqrt()
    return float((_hsic(one, other) / scale).nan_to_num(posinf=0, neginf=0))


def hard_together(first: Tensor, second: Tensor) -> float:
    """Share of rows that are hard for both or easy for both: worse or better than the task's mean (Lu et al. 2017).

    Args:
        first, second: loss [R] of each task in the same labelled rows.
    """
    return float(((first > first.mean()) == (second > second.mean())).double().mean())


def _ranks(values: Tensor) -> Tensor:
    """Values that are equal but for rounding have the mean of their ranks."""
    _, place, count = values.round(decimals=12).unique(return_inverse=True, return_counts=True)
    return (count.cumsum(0) - (count - 1) / 2)[place].double()


def _hsic(one: Tensor, other: Tensor) -> Tensor:
    rows = len(one)
    cross = one.sum() * other.sum() / ((rows - 1) * (rows - 2))
    between = 2 * (one.sum(0) @ other.sum(0)) / (rows - 2)
    return ((one * other).sum() + cross - between) / (rows * (rows - 3))
