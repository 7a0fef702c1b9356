"""Scored boxes: what a detector finds in a view, whatever form its network gives them in.

`ScoredBoxes` are for people and programs. Inside the program they travel as the answer of a network, like logits, so
that classes are matched, cached and compared as those of other networks: `as_answer` packs them, `from_answer` reads
them. Non-maximum suppression is here and nowhere else (`strongest`).
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_convert

from distill_mtl.geometry.views import Size
from distill_mtl.networks.inputs import InputContract, framing

MOST = 100
"""Boxes of a picture (COCO's own limit, Lin et al. 2014, arXiv:1405.0312)."""
LEAST = 0.01
"""Score below which a box is no answer."""
BOX = 4
"""Channels of an answer behind those of the classes: x and y of the centre, width, height."""
ABSENT = -1e4
"""Logit of a class that a box is not of, and of all classes in an empty slot: fp16 holds it, no sigmoid leaves any."""
_CANDIDATES = 1000  # boxes of a picture that suppression looks at, the strongest ones
_LEAST_LOGIT = 1e-6  # of a score and of what is left to 1, before its logit is taken


class ScoredBoxes(NamedTuple):
    """K boxes of each row, strongest first.

    Attributes:
        boxes: float32 [R, K, 4], left, top, right and bottom in pixels.
        scores: float32 [R, K] in [0, 1]; 0 where there is no box.
        labels: int64 [R, K], the class; -1 where there is no box.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def strongest(
    boxes: Tensor, scores: Tensor, labels: Tensor | None, overlap: float | None, most: int = MOST
) -> ScoredBoxes:
    """The best boxes of each row: candidates by score, then greedy suppression among those of one class.

    Args:
        boxes: float32 [R, N, 4], left, top, right, bottom.
        scores: float32 [R, N, C], one of each class; or [R, N], where `labels` say of which.
        labels: int64 [R, N]; one below 0 means no box.
        overlap: intersection over union from which the weaker of two boxes of one class goes; None: all stay.
        most: boxes of a row.
    """
    if labels is None:
        count = scores.shape[2]
        top, place = scores.flatten(1).topk(min(_CANDIDATES, scores[0].numel()))
        labels, place = place % count, place // count
    else:
        top, place = scores.topk(min(_CANDIDATES, scores.shape[1]))
        labels = labels.gather(1, place)
    boxes = boxes.gather(1, place[..., None].expand(-1, -1, 4))
    # Written so that a score or a box that is not a number is no box.
    there = (top >= LEAST) & (labels >= 0) & (boxes[..., 2:] > boxes[..., :2]).all(2)
    found = [
        _kept(*row, overlap, most)
        for row in zip(boxes.unbind(), top.unbind(), labels.unbind(), there.unbind(), strict=True)
    ]
    return ScoredBoxes(*(torch.stack(parts) for parts in zip(*found, strict=True)))


def _kept(
    boxes: Tensor, scores: Tensor, labels: Tensor, there: Tensor, overlap: float | None, most: int
) -> ScoredBoxes:
    """One row's boxes, and empty slots behind them."""
    kept = there.nonzero()[:, 0]
    if overlap is not None:
        kept = kept[batched_nms(boxes[kept], scores[kept], labels[kept], overlap)]
    kept = kept[:most]
    full = boxes.new_zeros(most, 4), scores.new_zeros(most), labels.new_full((most,), -1)
    for slots, values in zip(full, (boxes, scores, labels), strict=True):
        slots[: len(kept)] = values[kept]
    return ScoredBoxes(*full)


def in_view(found: ScoredBoxes, contract: InputContract, view: Size) -> ScoredBoxes:
    """Boxes in pixels of a network's input as boxes in pixels of the view that it was shown.

    What the contract did to the view is undone: squashing, the centred part, black beside it.

    Args:
        found: in pixels of the input, whose size the contract says.
        contract: of the network.
        view: height and width.
    """
    seen, inside = framing(view, contract)
    scale = found.boxes.new_tensor([seen.width / inside.width, seen.height / inside.height]).repeat(2)
    start = found.boxes.new_tensor([inside.left, inside.top]).repeat(2)
    offset = found.boxes.new_tensor([seen.left, seen.top]).repeat(2)
    moved = (found.boxes - start) * scale + offset
    return found._replace(boxes=moved * (found.labels >= 0)[..., None])


def as_answer(found: ScoredBoxes, classes: int, view: Size) -> Tensor:
    """Boxes in pixels of a view as the answer of a network: float32 [R, classes + 4, K].

    Channel c of slot k is the logit of the score if box k is of class c, else `ABSENT`; behind the classes stand x and
    y of the centre, width and height as shares of the view's sides.
    """
    there = found.labels >= 0
    logits = found.boxes.new_full((len(there), classes, there.shape[1]), ABSENT)
    score = torch.logit(found.scores, _LEAST_LOGIT).where(there, ABSENT)
    logits.scatter_(1, found.labels.clamp_min(0)[:, None], score[:, None])
    sides = found.boxes.new_tensor([view[1], view[0]]).repeat(2)
    places = box_convert(found.boxes / sides, "xyxy", "cxcywh")
    return torch.cat([logits, places.movedim(2, 1)], 1)


def is_boxes(answer: Tensor) -> bool:
    """Whether the answer [R, channels, ...] of a network is scored boxes, not vectors or maps."""
    return answer.ndim == 3


def from_answer(answer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Class int64 [R, K] (-1: no box), score [R, K] and centre, width, height [R, K, 4] of an answer."""
    logits, labels = answer[:, :-BOX].float().max(1)
    there = logits > ABSENT / 2
    places = answer[:, -BOX:].float().movedim(1, 2)
    return labels.where(there, -1), logits.sigmoid() * there, places


def boxes_apart(one: Tensor, other: Tensor) -> Tensor:
    """float32 [R] in [0, 1]: how far two answers lie apart, whatever the order of their boxes.

    Each box is compared with the nearest one of its class in the other answer: the largest difference among
    coordinates (shares of the view) and scores, weighed by its score. The row has the largest of all.
    """
    first, second = from_answer(one), from_answer(other)
    apart = (
        torch.cat([first[2], first[1][..., None]], 2)[:, :, None]
        - (torch.cat([second[2], second[1][..., None]], 2)[:, None])
    )
    alike = first[0][:, :, None] == second[0][:, None]
    cost = apart.abs().amax(3).clamp(max=1).masked_fill(~alike, 1.0)
    mine = first[1] * cost.amin(2)
    theirs = second[1] * cost.amin(1)
    return torch.cat([mine, theirs], 1).amax(1)
