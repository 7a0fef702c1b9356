"""Which found objects are there: overlaps of boxes, and who may claim which label."""

import torch
from torch import Tensor

from distill_mtl.tasks.objects import corners

HIT = 0.5
"""Intersection over union from which a box counts as found (PASCAL VOC; COCO's AP50)."""


def hits(found: Tensor, labels: Tensor) -> Tensor:
    """bool [R, K]: which found objects are labelled ones, each of which can be found once.

    In the order of the found ones, strongest first, each takes the free label of its class that it overlaps most
    (COCO's evaluation, Lin et al. 2014, arXiv:1405.0312; `COCOeval.evaluateImg`).

    Args:
        found: [R, K, 5], objects as shares of the view.
        labels: [R, M, 5], the same.
    """
    overlap = overlaps(found, labels)
    free = torch.ones_like(labels[..., 0], dtype=torch.bool)
    right = []
    for candidate in overlap.unbind(1):
        best, claimed = candidate.masked_fill(~free, -1).max(1)
        right.append(best >= HIT)
        taken = torch.zeros_like(free).scatter_(1, claimed[:, None], True) & right[-1][:, None]
        free = free & ~taken
    return torch.stack(right, 1)


def overlaps(first: Tensor, second: Tensor) -> Tensor:
    """[R, K, M]: intersection over union of boxes of one class; 0 for other classes and empty slots."""
    one, other = corners(first)[:, :, None], corners(second)[:, None]
    common = torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])
    intersection = common.clamp_min(0).prod(-1)
    union = first[:, :, None, 3:].prod(-1) + second[:, None, :, 3:].prod(-1) - intersection
    return torch.where(same_class(first, second) & (union > 0), intersection / union, 0.0)


def same_class(first: Tensor, second: Tensor) -> Tensor:
    """bool [R, K, M]: both are there, and of one class."""
    mine, theirs = first[:, :, None, 0], second[:, None, :, 0]
    return (mine == theirs) & (mine >= 0)
