"""How far a network's confidence is from how often it is right, from counts that add up exactly.

Answers are put into 15 equal bins by their confidence; the error is the mean over answers of the distance, in their
bin, between mean confidence and share of right answers (Guo et al. 2017, arXiv:1706.04599, equation 3). Bins are
torchmetrics': a bin begins with its lower border, and a confidence of exactly 1 has one of its own.
"""

import torch
from torch import Tensor

BINS = 16
_UNIT = 2**24  # whole numbers: their sum is the same in any order, however rows were split


def places(confidence: Tensor) -> Tensor:
    """int64, like `confidence` in [0, 1]: the bin of each answer."""
    borders = torch.linspace(0, 1, BINS, dtype=confidence.dtype, device=confidence.device)
    return (torch.bucketize(confidence, borders, right=True) - 1).clamp(0, BINS - 1)


def confidence_counts(confidence: Tensor, right: Tensor) -> Tensor:
    """int64 [3, BINS] on the CPU: summed confidence (in 1 / 2^24), right answers and answers of each bin.

    Args:
        confidence: float32 [N], the probability of what was answered.
        right: bool [N].
    """
    place = places(confidence)
    counts = torch.zeros(3, BINS, dtype=torch.long, device=confidence.device)
    counts[0].index_add_(0, place, (confidence * _UNIT).long())
    counts[1].index_add_(0, place, right.long())
    counts[2].index_add_(0, place, torch.ones_like(place))
    return counts.cpu()


def calibration_error(counts: Tensor) -> float:
    """In points of 100, from summed `confidence_counts`; 0 where nothing was answered.

    To four digits: the last bits of a confidence depend on how many rows its network answered at once.
    """
    confidence, right, answers = counts.double()
    return round(100 * float((confidence / _UNIT - right).abs().sum() / answers.sum().clamp(min=1)), 4)
