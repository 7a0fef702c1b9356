"""Scored boxes: suppression, the way back through an input contract, and boxes as an answer."""

import pytest
import torch
from torch import Tensor

from distill_mtl.networks.boxes import (
    ABSENT,
    MOST,
    ScoredBoxes,
    as_answer,
    boxes_apart,
    from_answer,
    in_view,
    strongest,
)
from distill_mtl.networks.inputs import InputContract, Preprocess


def some_boxes(rows: int, number: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(rows, number, 2, generator=generator) * 40
    return torch.cat([corner, corner + 2 + torch.rand(rows, number, 2, generator=generator) * 20], 2)


def iou(one: Tensor, other: Tensor) -> float:
    sides = (torch.minimum(one[2:], other[2:]) - torch.maximum(one[:2], other[:2])).clamp_min(0)
    common = float(sides.prod())
    return common / float((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod() - common)


def test_suppression_is_greedy_within_a_class_and_leaves_other_classes_alone() -> None:
    boxes, scores = some_boxes(2, 60), torch.rand(2, 60, 3)
    found = strongest(boxes, scores, None, 0.5)
    assert found.boxes.shape == (2, MOST, 4)
    for row in range(2):
        kept: list[tuple[float, int, Tensor]] = []
        for place in scores[row].flatten().argsort(descending=True).tolist():
            box, label = boxes[row, place // 3], place % 3
            if all(label != other or iou(box, theirs) <= 0.5 for _, other, theirs in kept):
                kept.append((float(scores[row, place // 3, label]), label, box))
        expected = [entry for entry in kept if entry[0] >= 0.01][:MOST]
        number = int((found.labels[row] >= 0).sum())
        assert number == len(expected)
        assert torch.equal(found.labels[row, :number], torch.tensor([label for _, label, _ in expected]))
        assert torch.equal(found.boxes[row, :number], torch.stack([box for _, _, box in expected]))


def test_a_network_that_sorted_its_boxes_out_keeps_all_of_them() -> None:
    boxes = torch.tensor([[[0.0, 0, 9, 9], [0, 0, 9, 9], [0, 0, 9, 9]]])
    found = strongest(boxes, torch.tensor([[0.9, 0.8, 0.001]]), torch.zeros(1, 3, dtype=torch.int64), None)
    assert (found.labels[0] >= 0).sum() == 2  # the third says nothing


def test_what_is_no_number_and_what_has_no_area_is_no_box() -> None:
    boxes = torch.tensor([[[0.0, 0, 9, 9], [5, 5, 5, 9], [torch.nan, 0, 9, 9]]])
    found = strongest(boxes, torch.tensor([[torch.nan, 0.9, 0.9]]), torch.zeros(1, 3, dtype=torch.int64), 0.5)
    assert (found.labels == -1).all()
    assert found.scores.sum() == 0


@pytest.mark.parametrize("resize", ["squash", "pad", "crop"])
@pytest.mark.parametrize("crop", [1.0, 0.75])
@pytest.mark.parametrize("view", [(48, 80), (80, 48), (64, 64)])
def test_a_box_frames_the_same_pixels_before_and_behind_an_input_contract(
    resize: str, crop: float, view: tuple[int, int]
) -> None:
    contract = InputContract((96, 64), (0.0,) * 3, (1.0,) * 3, "nearest", resize=resize, crop=crop)
    images = torch.zeros(1, 3, *view)
    top, left, bottom, right = view[0] // 2 - 6, view[1] // 2 - 9, view[0] // 2 + 8, view[1] // 2 + 5
    images[..., top:bottom, left:right] = 1
    seen = Preprocess(contract)(images)[0, 0]
    lines, columns = seen.amax(1).nonzero()[:, 0], seen.amax(0).nonzero()[:, 0]
    inside = torch.stack([columns.min(), lines.min(), columns.max() + 1, lines.max() + 1]).float()
    found = ScoredBoxes(inside[None, None], torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int64))
    back = in_view(found, contract, view).boxes[0, 0]
    # To within a pixel of the input, of which the view may have two.
    assert (back - torch.tensor([left, top, right, bottom])).abs().max() <= 1.3


def answer_of(seed: int = 0) -> tuple[ScoredBoxes, Tensor]:
    found = strongest(some_boxes(3, 20, seed), torch.rand(3, 20, 4), None, 0.5, most=12)
    found.labels[0, 7:] = -1
    found.scores[0, 7:] = 0
    return found, as_answer(found, 4, (64, 64))


def test_an_answer_says_what_its_boxes_said() -> None:
    found, answer = answer_of()
    assert answer.shape == (3, 8, 12)
    assert answer.half().isfinite().all()
    labels, scores, places = from_answer(answer)
    assert torch.equal(labels, found.labels)
    torch.testing.assert_close(scores, found.scores)
    centre, sides = places[..., :2] * 64, places[..., 2:] * 64
    there = found.labels >= 0
    torch.testing.assert_close(
        torch.cat([centre - sides / 2, centre + sides / 2], 2)[there], found.boxes[there]
    )
    assert (answer[:, :4] > ABSENT).sum(1).max() == 1  # each slot is of one class


def test_answers_are_compared_whatever_the_order_of_their_boxes() -> None:
    _, answer = answer_of()
    assert boxes_apart(answer, answer[:, :, torch.randperm(12)]).max() < 1e-6
    moved = answer.clone()
    moved[:, -4] += 0.1
    assert (boxes_apart(answer, moved) > 0.05).all()
    assert (boxes_apart(answer, answer[:, [1, 0, 2, 3, 4, 5, 6, 7]]) > 0.1).all()
