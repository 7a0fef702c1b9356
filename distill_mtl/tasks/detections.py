"""Scored boxes of a detector as answers of the kind `heatmap`: the best of them, soft targets, and maps.

A detector's boxes (`networks.boxes`) are scored and compared as they are. Only the loss draws them, at the size of the
student's own maps.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_convert

from distill_mtl.geometry.views import Size
from distill_mtl.networks.boxes import ABSENT, BOX, as_answer, from_answer, strongest
from distill_mtl.tasks.heat import ALPHA, BETA, LEAST_SIDE, Peaks, gaussians
from distill_mtl.tasks.maps import map_size
from distill_mtl.tasks.objects import MATCH_IOU, corners, pairwise_iou

_TIE = 1e-4
DOUBT = 0.05
"""Score below which a detector's box is background."""


def soft_box_loss(
    logits: Tensor, answer: Tensor, classes: int, least: float, *, size_weight: float
) -> Tensor:
    """How far the student's maps are from a detector's scored boxes, per row.

    Boxes are cut off at the view's borders, as those of labels are; one that lies beyond them is none.

    A box with a score of at least `least` claims an object: the cell of its centre is a Bernoulli distribution with the
    score, and its sides and its place in the cell count by the score's square. A box with less, down to `DOUBT`, claims
    nothing: its centre is neither object nor background. All other cells are background, as if labelled, with
    less weight near a box: (1 - Gaussian)^4, as in the focal loss. A cell's divergence, KL(teacher ‖ student), is
    weighted by max(p, q)², as in `soft_heat_loss`, and all is divided by the sum of the claimed scores' squares, at
    least 1. The loss is 0 where student and boxes agree.

    Temperature has no place here: a score is a probability by itself, which may have passed through a suppression, and
    `least` says from where on it is believed. Detectors' boxes as soft targets: after Chen et al. 2017 ("Learning
    Efficient Object Detection Models with Knowledge Distillation", NeurIPS), who bound the boxes' regression and weigh
    the background; the weights are ours.

    Args:
        logits: float32 [R, classes + 4, h, w], the student's.
        answer: float32 [R, classes + 4, K], the teacher's, as `networks.boxes.as_answer` packs it.
        classes: heat maps.
        least: score from which a box is claimed.
        size_weight: of the sides.

    Returns:
        float32 [R].
    """
    size = map_size(logits)
    labels, scores, places = _clipped(*from_answer(answer))
    scale = places.new_tensor([size[1], size[0]])
    centre, sides = places[..., :2] * scale, (places[..., 2:] * scale).clamp_min(LEAST_SIDE)
    cell = torch.minimum(centre.floor().clamp_min(0), scale - 1)
    there = (labels >= 0) & (scores >= DOUBT)
    claimed = there & (scores >= least)
    near = gaussians(labels, there, cell.long(), sides, classes, size)
    place = (cell[..., 1] * size[1] + cell[..., 0]).long()
    wanted = torch.zeros_like(near).flatten(1)
    wanted = wanted.scatter_reduce(
        1, labels.clamp_min(0) * size[0] * size[1] + place, scores * claimed, "amax"
    ).view_as(near)
    heat = logits[:, :classes]
    divergence = (
        torch.special.xlogy(wanted, wanted)
        + torch.special.xlogy(1 - wanted, 1 - wanted)
        - wanted * F.logsigmoid(heat)
        - (1 - wanted) * F.logsigmoid(-heat)
    )
    weights = torch.maximum(heat.detach().sigmoid(), wanted) ** ALPHA
    weights = weights * torch.where(wanted > 0, 1.0, (1 - near) ** BETA)
    sure = (scores * claimed) ** ALPHA
    read = logits[:, classes:].flatten(2).gather(2, place[:, None].expand(-1, BOX, -1)).movedim(1, 2)
    apart = size_weight * (read[..., :2] - sides).abs().sum(2) + (read[..., 2:] - (centre - cell)).abs().sum(
        2
    )
    return ((weights * divergence).flatten(1).sum(1) + (sure * apart).sum(1)) / sure.sum(1).clamp(min=1)


def _clipped(labels: Tensor, scores: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The boxes of `from_answer`, cut off at the view's borders; those without an area there have class -1, score 0."""
    edges = box_convert(places, "cxcywh", "xyxy").clamp(0, 1)
    remain = (edges[..., 2:] > edges[..., :2]).all(2)
    return labels.where(remain, -1), scores * remain, box_convert(edges, "xyxy", "cxcywh")


def strongest_boxes(answer: Tensor, most: int) -> Peaks:
    """The best of a detector's boxes, strongest first.

    Args:
        answer: float32 [R, classes + 4, K], as `networks.boxes.as_answer` packs it.
        most: boxes of a row.
    """
    labels, scores, places = from_answer(answer)
    scores, index = scores.topk(min(most, scores.shape[1]))
    objects = torch.cat([labels[..., None].float(), places], 2)
    return Peaks(objects.gather(1, index[..., None].expand(-1, -1, objects.shape[2])), scores)


def best_box_of_each_class(answer: Tensor) -> Peaks:
    """The best of a detector's boxes of every class, in the order of the classes; for the arguments see above."""
    top, index = answer[:, :-BOX].max(2)
    places = answer[:, -BOX:].gather(2, index[:, None].expand(-1, BOX, -1)).movedim(1, 2)
    numbers = torch.arange(top.shape[1], device=top.device).expand_as(top).float()
    numbers = numbers.where(top > ABSENT / 2, -1)
    return Peaks(torch.cat([numbers[..., None], places], 2), top.sigmoid())


def fused(answers: Sequence[Tensor], shares: Tensor) -> Tensor:
    """The boxes of several detectors as those of one: float32 [R, classes + 4, K].

    A box has the mean of what all say of its place: of each detector the score of its best box of the class that
    overlaps it by half, or 0 where it sees none (the scores of weighted boxes fusion, Solovyev, Wang & Gabruseva 2019,
    arXiv:1910.13302). Of boxes of one class that overlap by half the best stays.

    Args:
        answers: of M detectors of the same classes, as `networks.boxes.as_answer` packs them.
        shares: float [M, R], of each detector, summing to 1.
    """
    each = [from_answer(answer) for answer in answers]
    objects = [torch.cat([labels[..., None].float(), places], 2) for labels, _, places in each]
    every = torch.cat(objects, 1)
    score = every.new_zeros(every.shape[:2])
    for share, found, (_, scores, _) in zip(shares, objects, each, strict=True):
        seen = (pairwise_iou(every, found) >= MATCH_IOU) * scores[:, None]
        score = score + share[:, None] * seen.amax(2)
    # Of boxes that all see alike, that of the surest detector stays.
    score = score * (1 + _TIE * torch.cat([scores for _, scores, _ in each], 1))
    best = strongest(corners(every), score.clamp(max=1), every[..., 0].long(), MATCH_IOU)
    return as_answer(best, answers[0].shape[1] - BOX, (1, 1))


def as_maps(answer: Tensor, classes: int, size: Size) -> Tensor:
    """A detector's boxes as the maps of a network that answers with maps: float32 [R, classes + 4, h, w].

    Two boxes of a class whose centres lie in one cell or in neighbours become one, and two boxes with one cell share
    their sides: that is what maps cost.
    """
    labels, scores, places = _clipped(*from_answer(answer))
    scale = places.new_tensor([size[1], size[0]])
    centre, sides = places[..., :2] * scale, (places[..., 2:] * scale).clamp_min(LEAST_SIDE)
    cell = torch.minimum(centre.floor().clamp_min(0), scale - 1)
    place = (cell[..., 1] * size[1] + cell[..., 0]).long()
    maps = answer.new_full((len(answer), classes, size[0] * size[1]), 0.0)
    number = labels.clamp_min(0) * size[0] * size[1] + place
    heat = maps.flatten(1).scatter_reduce(1, number, scores, "amax").view_as(maps)
    behind = answer.new_zeros(len(answer), BOX, size[0] * size[1])
    # The strongest box of a cell is written last, so it stays.
    order = scores.argsort(dim=1)
    for slot in order.unbind(1):
        row = torch.arange(len(answer), device=answer.device)
        values = torch.cat([sides[row, slot], centre[row, slot] - cell[row, slot]], 1)
        behind[row, :, place[row, slot]] = values
    return torch.cat([torch.logit(heat, 1e-6), behind], 1).unflatten(2, size)
