"""Heat maps of objects: the Gaussians that a network learns, its losses, and the peaks that are read from its maps."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_mtl.geometry.views import Size
from distill_mtl.tasks.losses import bernoulli_divergence
from distill_mtl.tasks.maps import map_size, resized

LEAST_RADIUS = 1.0
"""Cells: the neighbour of a centre is not background, also for the smallest boxes."""
OVERLAP = 0.7
"""Intersection over union that a box still has whose corners are off by the radius."""


def corner_radius(width: Tensor, height: Tensor) -> Tensor:
    """How far both corners of a box may be off, so that it overlaps the true one by at least `OVERLAP`.

    CornerNet's rule (Law & Deng 2018, arXiv:1808.01244, section 3.2) for the three ways to be off: both corners
    inwards, both outwards, or both to one side. Each is the smaller root of a quadratic equation.

    Args:
        width, height: [N], of the boxes, above 0.

    Returns:
        [N], in the same unit.
    """
    area, around = width * height, width + height
    side = _root(1.0, around, area * (1 - OVERLAP) / (1 + OVERLAP))
    inwards = _root(4.0, 2 * around, area * (1 - OVERLAP))
    outwards = _root(4 * OVERLAP, -2 * OVERLAP * around, -area * (1 - OVERLAP))
    return torch.minimum(torch.minimum(side, inwards), outwards)


def draw_gaussians(
    place: Tensor, row: Tensor, column: Tensor, radius: Tensor, maps: int, size: Size
) -> Tensor:
    """float32 [maps, h, w]: at every cell the largest of the map's Gaussians, exactly 1 in the objects' cells.

    Their standard deviation is a sixth of the diameter, 2 radius + 1 (CornerNet's program; the paper says a
    third of the radius).

    Args:
        place: int64 [N], the map of each object.
        row, column: int64 [N], its cell.
        radius: float32 [N], in cells.
        maps: how many.
        size: height and width.
    """
    height, width = size
    spread = 2 * ((2 * radius + 1) / 6) ** 2
    rows, columns = (torch.arange(side, device=row.device) for side in (height, width))
    down = torch.exp(-((rows - row[:, None]) ** 2) / spread[:, None])
    across = torch.exp(-((columns - column[:, None]) ** 2) / spread[:, None])
    bells = (down[:, :, None] * across[:, None, :]).flatten(1)
    heat = torch.zeros(maps, height * width, device=row.device)
    heat = heat.scatter_reduce(0, place[:, None].expand_as(bells), bells, "amax")
    return heat.unflatten(1, size)


def _root(square: float, linear: Tensor, constant: Tensor) -> Tensor:
    """The root of square r² - linear r + constant = 0 that is nearer to 0."""
    sign = torch.where(linear >= 0, 1.0, -1.0)
    # Not the difference of near equals: the product of both roots is constant / square.
    return 2 * constant / (linear + sign * (linear**2 - 4 * square * constant).clamp_min(0).sqrt())


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
        teacher if alike else as_large(teacher, classes, map_size(logits), sized=size_weight is not None)
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


def gaussians(labels: Tensor, there: Tensor, cell: Tensor, sides: Tensor, classes: int, size: Size) -> Tensor:
    """float32 [R, classes, h, w]: the Gaussians of the objects [R, K] that are there, their sides in cells."""
    row, slot = there.nonzero(as_tuple=True)
    column, line = cell[row, slot].unbind(1)
    radius = corner_radius(*sides[row, slot].unbind(1)).clamp_min(LEAST_RADIUS)
    place = row * classes + labels[row, slot].long()
    heat = draw_gaussians(place, line, column, radius, len(labels) * classes, size)
    return heat.view(len(labels), classes, *size)


def as_large(maps: Tensor, classes: int, size: Size, *, sized: bool) -> Tensor:
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


LEAST_SIDE = 0.01
"""Cells. A network may say less than nothing, and a box without area does not even overlap itself."""


class Peaks(NamedTuple):
    """K objects of each row.

    Attributes:
        objects: float32 [R, K, 5], class (-1: none), x and y of the centre, width and height as shares of
            the view's sides.
        scores: float32 [R, K] in [0, 1], 0 where there is none.
    """

    objects: Tensor
    scores: Tensor


def strongest_peaks(logits: Tensor, classes: int, most: int) -> Peaks:
    """The peaks of all classes together, strongest first: cells that none of their eight neighbours exceeds.

    The 3x3 maximum stands in for non-maximum suppression (Zhou et al. 2019, arXiv:1904.07850, section 4).

    Args:
        logits: float32 [R, classes + 4, h, w]; the last four are width and height in cells, and offsets.
        classes: heat maps.
        most: peaks of a row; fewer where the maps have not so many cells.
    """
    heat = logits[:, :classes]
    heat = heat.masked_fill(F.max_pool2d(heat, 3, stride=1, padding=1) != heat, -torch.inf).flatten(1)
    top, index = heat.topk(min(most, heat.shape[1]))
    cells = logits.shape[-2] * logits.shape[-1]
    return _peaks_at(logits, top, index // cells, index % cells, sized=True)


def best_peak_of_each_class(logits: Tensor, classes: int, *, sized: bool) -> Peaks:
    """The highest cell of every class, in the order of the classes.

    Args:
        logits: float32 [R, C, h, w]; behind the heat maps stand sizes, if there are some, and two offsets.
        classes: heat maps.
        sized: there are.
    """
    top, index = logits[:, :classes].flatten(2).max(2)
    numbers = torch.arange(classes, device=logits.device).expand_as(index)
    return _peaks_at(logits, top, numbers, index, sized=sized)


def _peaks_at(logits: Tensor, top: Tensor, classes: Tensor, index: Tensor, *, sized: bool) -> Peaks:
    """What stands in the cells `index` [R, K], counted row by row."""
    height, width = logits.shape[-2:]
    behind = logits[:, -4:] if sized else logits[:, -2:]
    read = behind.flatten(2).gather(2, index[:, None].expand(-1, behind.shape[1], -1))
    x = (index % width + read[:, -2]) / width
    y = (index // width + read[:, -1]) / height
    if sized:
        across, down = read[:, :2].clamp_min(LEAST_SIDE).unbind(1)
        sides = [across / width, down / height]
    else:
        sides = [torch.zeros_like(x)] * 2
    numbers = torch.where(top.isinf(), -1, classes).float()
    objects = torch.stack([numbers, x, y, *sides], 2)
    return Peaks(objects, top.sigmoid())
