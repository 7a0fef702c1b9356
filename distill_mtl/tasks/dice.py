"""Soft Dice: a loss of segmentation that counts every class alike, however few its pixels are."""

import torch.nn.functional as F
from torch import Tensor


def soft_dice_loss(logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """1 - D of Milletari, Navab & Ahmadi (2016, arXiv:1606.04797, section 3), mean over classes, per row.

    D = 2 Σ p g / (Σ p² + Σ g²) over the row's valid pixels, of a class's probability p and of the label g
    in {0, 1}. Classes that are absent from the row's label do not count: their D is 0 whatever p is, a
    constant without a gradient.

    Args:
        logits: [R, C, H, W].
        labels: int64 [R, H, W], anything where they are not valid.
        valid: bool [R, H, W].

    Returns:
        float32 [R]: 0 for a perfect row and for one without a valid pixel, at most 1.
    """
    probabilities = logits.float().softmax(1) * valid[:, None]
    truth = F.one_hot(labels.where(valid, 0), logits.shape[1]).movedim(-1, 1) * valid[:, None]
    pixels = truth.flatten(2).sum(-1)
    overlap = (probabilities * truth).flatten(2).sum(-1)
    dice = 2 * overlap / (probabilities.square().flatten(2).sum(-1) + pixels).clamp(min=1)
    present = pixels > 0
    return ((1 - dice) * present).sum(1) / present.sum(1).clamp(min=1)
