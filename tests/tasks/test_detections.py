"""A detector's boxes as answers of the kind `heatmap`: scores, soft targets, and what maps would cost."""

import contextlib
import io
from typing import Any

import pytest
import torch
from torch import Tensor

from distill_mtl.errors import UserError
from distill_mtl.networks.boxes import ScoredBoxes, as_answer
from distill_mtl.tasks.base import build_kind
from distill_mtl.tasks.detections import as_maps, soft_box_loss
from distill_mtl.teachers.label_map import match_classes

CLASSES = ("cat", "dog", "bird")
KIND = build_kind("heatmap", CLASSES, max_objects=12)
SIDE = 100


def labels_of(rows: int, seed: int, most: int = 12) -> Tensor:
    """[R, 12, 5] as shares of the view."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.rand(rows, most, 5, generator=generator)
    labels[..., 3:] = labels[..., 3:] * 0.2 + 0.05
    labels[..., 0] = torch.randint(-1, 3, (rows, most), generator=generator)
    return labels


def detections(labels: Tensor, seed: int = 0, blur: float = 0.01) -> tuple[ScoredBoxes, Tensor]:
    """About the labelled boxes with some scores, and some that are not there."""
    generator = torch.Generator().manual_seed(seed)
    places = labels[..., 1:] + blur * torch.randn(*labels.shape[:2], 4, generator=generator)
    extra = torch.rand(*places.shape, generator=generator) * 0.3 + 0.1
    places = torch.cat([places, extra], 1)
    number = torch.cat([labels[..., 0].long(), torch.randint(0, 3, labels.shape[:2], generator=generator)], 1)
    scores = torch.rand(number.shape, generator=generator)
    scores[:, labels.shape[1] :] *= 0.7
    scores, order = (scores * (number >= 0)).sort(dim=1, descending=True)
    number, places = number.gather(1, order), places.gather(1, order[..., None].expand(-1, -1, 4))
    centre, half = places[..., :2], places[..., 2:].clamp_min(0.01) / 2
    boxes = torch.cat([centre - half, centre + half], 2) * SIDE
    found = ScoredBoxes(boxes, scores, number)
    return found, as_answer(found, 3, (SIDE, SIDE))


def coco_ap50(found: ScoredBoxes, labels: Tensor) -> float:
    """AP at 0.5 by COCO's own program."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for row, label in enumerate(labels):
        for number, x, y, width, height in label[label[:, 0] >= 0].tolist():
            box = [(x - width / 2) * SIDE, (y - height / 2) * SIDE, width * SIDE, height * SIDE]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": row + 1, "category_id": int(number) + 1, "bbox": box}
                | {"area": box[2] * box[3], "iscrowd": 0}
            )
        for box, score, number in zip(found.boxes[row], found.scores[row], found.labels[row], strict=True):
            if number >= 0:
                left, top, right, bottom = box.tolist()
                entry = {"image_id": row + 1, "category_id": int(number) + 1, "score": float(score)}
                results.append(entry | {"bbox": [left, top, right - left, bottom - top]})
    truth = coco.COCO()
    truth.dataset = {
        "images": [{"id": row + 1} for row in range(len(labels))],
        "categories": [{"id": number + 1} for number in range(3)],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        measured = cocoeval.COCOeval(truth, truth.loadRes(results), "bbox")
        measured.evaluate()
        measured.accumulate()
        measured.summarize()
    return 100 * float(measured.stats[1])


def score(answer: Tensor, labels: Tensor) -> float:
    return float(KIND.score(KIND.statistics(answer, labels)))


def test_a_detector_scores_by_its_boxes_as_with_cocos_own_program() -> None:
    labels = labels_of(16, 0)
    found, answer = detections(labels)
    # COCO samples precision at 101 values of recall, ours is the whole area.
    assert score(answer, labels) == pytest.approx(coco_ap50(found, labels), abs=1.0)


def test_maps_in_place_of_boxes_would_cost_points_where_objects_are_close() -> None:
    labels = labels_of(16, 0)
    _, answer = detections(labels, blur=0.0)
    own = score(answer, labels)
    costs = [own - score(as_maps(answer, 3, (side, side)), labels) for side in (64, 16, 8)]
    assert costs[0] < costs[1] < costs[2]
    assert costs[2] > 5
    alone = labels_of(16, 1, most=1)
    _, answer = detections(alone, blur=0.0)
    answer[:, :3] = answer[:, :3].where(answer[:, :3] > 0, -1e4)
    assert score(answer, alone) == pytest.approx(score(as_maps(answer, 3, (64, 64)), alone), abs=0.5)


def test_decoded_boxes_are_the_detectors_in_pixels() -> None:
    found, answer = detections(labels_of(4, 2))
    decoded = KIND.decode(answer, (SIDE, SIDE))
    most = decoded["scores"].shape[1]
    torch.testing.assert_close(decoded["scores"], found.scores[:, :most])
    there = (found.labels >= 0)[:, :most]
    assert torch.equal(decoded["label"][there], found.labels[:, :most][there])
    torch.testing.assert_close(decoded["boxes"][there], found.boxes[:, :most][there].clamp(0, SIDE))


def test_the_best_of_each_class_is_found_by_pck_too() -> None:
    kind, labels = build_kind("heatmap", CLASSES, "pck", max_objects=12), labels_of(8, 3, most=1)
    centre, half = labels[..., 1:3], labels[..., 3:] / 2
    boxes = torch.cat([centre - half, centre + half], 2) * SIDE
    found = ScoredBoxes(boxes, torch.full((8, 1), 0.9), labels[..., 0].long())
    assert float(kind.score(kind.statistics(as_answer(found, 3, (SIDE, SIDE)), labels))) == pytest.approx(100)


def test_classes_are_put_in_the_tasks_order_and_further_ones_left_out() -> None:
    _, answer = detections(labels_of(4, 4))
    turned = match_classes(CLASSES, 3, ("bird", "cat"), "teacher", rest=4)(answer)
    assert turned.shape == (4, 6, answer.shape[2])
    objects = build_kind("heatmap", ("bird", "cat")).decode(turned, (SIDE, SIDE))
    own = KIND.decode(answer, (SIDE, SIDE))
    birds = own["scores"].where(own["label"] == 2, 0).amax(1)
    torch.testing.assert_close(objects["scores"].where(objects["label"] == 0, 0).amax(1), birds)


# ---- soft targets ---------------------------------------------------------------------------------
def one_box(score: float, size: int = 8, number: int = 1) -> Tensor:
    """The answer with one box in the middle of cell (3, 3) of a map of 8 x 8."""
    middle = 3.5 / 8 * SIDE
    box = torch.tensor([[[middle - 15, middle - 10, middle + 15, middle + 10]]])
    found = ScoredBoxes(box, torch.tensor([[score]]), torch.tensor([[number]]))
    return as_answer(found, 3, (SIDE, SIDE))


def student(heat: float, score: float = 1e-6, side: int = 8) -> Tensor:
    """Maps that say `heat` in cell (3, 3) for class 1, and `score` elsewhere; its box is right."""
    maps = torch.logit(torch.full((1, 7, side, side), score))
    maps[:, 1, 3, 3] = torch.logit(torch.tensor(heat))
    maps[:, 3:] = torch.tensor([30 / SIDE * side, 20 / SIDE * side, 0.5, 0.5]).view(4, 1, 1)
    return maps


def loss(maps: Tensor, answer: Tensor, least: float = 0.3) -> float:
    return float(soft_box_loss(maps, answer, 3, least, size_weight=0.1))


@pytest.mark.parametrize("score", [0.4, 0.7, 0.95])
def test_the_loss_is_0_where_the_student_says_the_score_and_grows_on_both_sides(score: float) -> None:
    assert loss(student(score), one_box(score)) == pytest.approx(0, abs=1e-4)
    assert loss(student(score + 0.04), one_box(score)) > 3e-4
    assert loss(student(score - 0.2), one_box(score)) > 1e-3


def test_below_the_least_score_neither_object_nor_background_is_claimed() -> None:
    assert loss(student(0.9), one_box(0.2)) < 1e-4
    assert loss(student(0.01), one_box(0.2)) < 1e-4
    # Elsewhere it is background all the same, and so is a box that says next to nothing.
    assert loss(student(0.9), one_box(0.2, number=0)) > 0.1
    assert loss(student(0.9), one_box(0.02)) > 0.1
    assert loss(student(0.9), one_box(0.2), least=0.1) > 0.1


def test_sides_and_places_count_where_the_teacher_is_sure() -> None:
    wrong = student(0.9)
    wrong[:, 3:] += 1
    sure, unsure = loss(wrong, one_box(0.9)), loss(wrong, one_box(0.2))
    assert sure == pytest.approx(0.9**2 * (0.1 * 2 + 2) + loss(student(0.9), one_box(0.9)), rel=1e-3)
    assert unsure < 1e-4


def placed(box: tuple[float, float, float, float], score: float = 0.9) -> Tensor:
    """The answer with one box of class 1."""
    found = ScoredBoxes(
        torch.tensor([[box]], dtype=torch.float32), torch.tensor([[score]]), torch.tensor([[1]])
    )
    return as_answer(found, 3, (SIDE, SIDE))


def test_a_box_is_cut_off_at_the_views_borders() -> None:
    maps = torch.randn(1, 7, 8, 8)
    assert loss(maps, placed((-60, 30, 20, 50))) == pytest.approx(loss(maps, placed((0, 30, 20, 50))))
    assert loss(maps, placed((90, 90, 900, 900))) == pytest.approx(loss(maps, placed((90, 90, 100, 100))))


def test_a_box_beyond_the_view_is_none() -> None:
    nothing = as_answer(
        ScoredBoxes(torch.zeros(1, 1, 4), torch.zeros(1, 1), torch.full((1, 1), -1)), 3, (SIDE, SIDE)
    )
    maps = torch.randn(1, 7, 8, 8)
    for box in ((-60, 30, -5, 50), (130, 120, 150, 140)):
        assert loss(maps, placed(box)) == loss(maps, nothing)


def test_temperature_changes_nothing() -> None:
    maps, answer = torch.randn(4, 7, 16, 16), detections(labels_of(4, 5))[1]
    first, second = (KIND.soft_target_loss(maps, answer, temperature) for temperature in (1.0, 7.0))
    assert torch.equal(first, second)
    assert (first > 0).all()


def test_rows_do_not_depend_on_their_batch_and_gradients_are_finite() -> None:
    maps = torch.randn(4, 7, 16, 16, requires_grad=True)
    answer = detections(labels_of(4, 6))[1]
    together = KIND.soft_target_loss(maps, answer, 1.0)
    apart = torch.cat([KIND.soft_target_loss(maps[[row]], answer[[row]], 1.0) for row in range(4)])
    torch.testing.assert_close(together, apart)
    together.sum().backward()
    assert maps.grad is not None
    assert maps.grad.isfinite().all()


def test_a_picture_without_boxes_is_all_background() -> None:
    nothing = as_answer(
        ScoredBoxes(torch.zeros(1, 5, 4), torch.zeros(1, 5), torch.full((1, 5), -1)), 3, (9, 9)
    )
    assert loss(student(1e-6), nothing) < 1e-6
    assert loss(student(0.9), nothing) > 0.5


@pytest.mark.parametrize("value", [-0.1, 2, "much"])
def test_a_least_score_is_a_share(value: Any) -> None:
    with pytest.raises(UserError, match="least_score must be a number from 0 to 1"):
        build_kind("heatmap", CLASSES, least_score=value)


# ---- several detectors -----------------------------------------------------------------------------
def halves(rows: int) -> Tensor:
    return torch.full((2, rows), 0.5)


def test_two_detectors_that_say_the_same_are_one() -> None:
    labels = labels_of(8, 7, most=1)
    _, answer = detections(labels, blur=0.0)
    both = KIND.average([answer, answer], halves(8), 1.0)
    assert score(both, labels) == pytest.approx(score(answer, labels), abs=0.01)


def test_a_box_that_one_of_two_sees_has_half_its_score() -> None:
    nothing = as_answer(
        ScoredBoxes(torch.zeros(1, 1, 4), torch.zeros(1, 1), torch.full((1, 1), -1)), 3, (9, 9)
    )
    found = KIND.decode(KIND.average([one_box(0.8), nothing], halves(1), 1.0), (SIDE, SIDE))
    assert found["scores"][0, :2].tolist() == pytest.approx([0.4, 0], abs=1e-3)
    weighed = KIND.average([one_box(0.8), one_box(0.4)], torch.tensor([[0.75], [0.25]]), 1.0)
    scores = KIND.decode(weighed, (SIDE, SIDE))["scores"][0]
    assert scores[:2].tolist() == pytest.approx([0.7, 0], abs=1e-3)
