"""Losses of heat maps: against labels, and against a teacher's maps."""

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_mtl.geometry.views import Size
from distill_mtl.tasks.divergence import bernoulli_divergence
from distill_mtl.tasks.maps import map_size, resized

ALPHA, BETA = 2, 4  # section 3 of the paper, after CornerNet


def focal_loss(logits: Tensor, heat: Tensor) -> Tensor:
    """The penalty-reduced focal loss of every cell (Zhou et al. 2019, arXiv:1904.07850, equation 1), but for its 1/N.

    Args:
        logits: float32 [R, C, h, w].
        heat: the same shape, in [0, 1], 1 in the cells of centres.
    """
    yes, no = F.logsigmoid(logits), F.logsigmoid(-logits)
    centre = no.exp() ** ALPHA * yes
    elsewhere = (1 - heat) ** BETA * yes.exp() ** ALPHA * no
    return -torch.where(heat == 1, centre, elsewhere)


def soft_heat_loss(
    logits: Tensor, teacher: Tensor, classes: int, temperature: float, *, size_weight: float | None
) -> Tensor:
    """How far the student's maps are from the teacher's, per row; 0 where they are equal.

    Each cell of a heat map is a Bernoulli distribution; KL(teacher ‖ student) at the temperature, times its square, is
    weighted by max(p, q)², the larger of both networks' probabilities at temperature 1. So peaks count fully, missed
    and invented ones alike, and the many cells that both call empty next to nothing; a weight by the teacher alone
    (feature richness: Du et al. 2021, arXiv:2111.00674) would let the student invent. That the weight falls with
    the square is the focal loss's alpha, as for soft labels in the quality focal loss (Li et al. 2020,
    arXiv:2006.04388, equation 3); unlike that one's |p - q|² it does not flatten the loss near its floor. Learning
    keypoints from a teacher's whole heat maps is Zhang, Zhu & Ye 2019 (arXiv:1811.05419). The weights are ours.

    Sizes and offsets are compared by L1, weighted by the square of the teacher's largest heat in the cell; offsets only
    where both maps have one size. All is divided by the sum of the teacher's squares, about the number of its
    objects, at least 1.

    Args:
        logits: float32 [R, classes + 4 or 2, h, w].
        teacher: the same of perhaps another size.
        classes: heat maps.
        temperature: of the heat maps.
        size_weight: of the sizes; None: there are none.

    Returns:
        float32 [R].
    """
    alike = map_size(teacher) == map_size(logits)
    teacher = (
        teacher if alike else _as_large(teacher, classes, map_size(logits), sized=size_weight is not None)
    )
    mine, theirs = logits[:, :classes], teacher[:, :classes]
    sure = theirs.sigmoid()
    weights = torch.maximum(mine.detach().sigmoid(), sure) ** ALPHA
    heat = (weights * bernoulli_divergence(mine, theirs, temperature)).flatten(1).sum(1)
    peaks = sure.amax(1, keepdim=True) ** ALPHA
    apart = heat.new_zeros(heat.shape)
    if size_weight is not None:
        sides = slice(classes, classes + 2)
        apart = apart + size_weight * (peaks * (logits[:, sides] - teacher[:, sides]).abs()).flatten(1).sum(1)
    if alike:
        apart = apart + (peaks * (logits[:, -2:] - teacher[:, -2:]).abs()).flatten(1).sum(1)
    mass = (sure**ALPHA).flatten(1).sum(1).clamp(min=1)
    return (heat + apart) / mass


def _as_large(maps: Tensor, classes: int, size: Size, *, sized: bool) -> Tensor:
    """A teacher's maps in another size: sizes are in the new cells then, offsets mean nothing any more.

    Where cells become larger, each takes its heat from the hottest of those that it covers, and the sizes from
    there; a mean would drown the peaks.
    """
    height, width = map_size(maps)
    coarser = (min(height, size[0]), min(width, size[1]))
    if coarser != (height, width):
        heat = F.adaptive_max_pool2d(maps[:, :classes], coarser)
        _, index = F.adaptive_max_pool2d(
            maps[:, :classes].amax(1, keepdim=True), coarser, return_indices=True
        )
        behind = maps[:, classes:].flatten(2)
        read = behind.gather(2, index.flatten(2).expand(-1, behind.shape[1], -1))
        maps = torch.cat([heat, read.unflatten(2, coarser)], 1)
    maps = resized(maps, size)
    if not sized:
        return maps
    scale = maps.new_ones(maps.shape[1], 1, 1)
    scale[classes], scale[classes + 1] = size[1] / width, size[0] / height
    return maps * scale
