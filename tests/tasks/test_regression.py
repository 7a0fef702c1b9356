import math
from pathlib import Path

import pytest
import torch
from label_shards import read_back
from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError, R2Score

from distill_mtl.errors import ShardError, UserError
from distill_mtl.geometry.views import View
from distill_mtl.networks.features import FeatureShape
from distill_mtl.tasks.base import TaskKind, Truth, build_kind

VALUES = ("yaw", "pitch")
NAN = math.nan


def regression(metric: str | None = None, **options: object) -> TaskKind:
    return build_kind("regression", VALUES, metric, **options)


def test_labels_come_back_from_a_shard(tmp_path: Path) -> None:
    payloads = [b"[12345.6, -1]", b'{"pitch": 2}', b"[null, null]", b"[3, null]"]
    labels = read_back(tmp_path, regression(), payloads)
    assert labels.dtype == torch.float32
    want = torch.tensor([[12345.6, -1], [NAN, 2], [3, NAN]])
    torch.testing.assert_close(labels, want, equal_nan=True, rtol=0, atol=0)


def test_one_value_may_stand_alone(tmp_path: Path) -> None:
    assert read_back(tmp_path, build_kind("regression", ["age"]), [b"31.5", b"[7]"]).tolist() == [[31.5], [7]]


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"[1]", "1 values.*2 names"),
        (b'["1", 2]', "'yaw' is \"1\".*number"),
        (b"[true, 2]", "'yaw' is true"),
        (b"[1, Infinity]", "Infinity"),
        (b'{"jaw": 1}', "'jaw'.*'yaw'"),
        (b"cat", 'JSON.*"cat"'),
    ],
)
def test_a_label_that_makes_no_sense_is_refused_with_its_place(
    tmp_path: Path, payload: bytes, why: str
) -> None:
    with pytest.raises(ShardError, match=rf"rows\.tar.*{why}"):
        read_back(tmp_path, regression(), [payload])


@pytest.mark.parametrize("loss", ["smooth_l1", "l1", "l2"])
def test_unknown_values_change_nothing_and_give_no_nan(loss: str) -> None:
    kind = regression(loss=loss)
    logits = torch.randn(3, 2, requires_grad=True)
    labels = torch.tensor([[1.0, NAN], [NAN, NAN], [0.5, 2.0]])
    losses = kind.supervised_loss(logits, labels)
    torch.testing.assert_close(
        losses[0],
        build_kind("regression", ["yaw"], loss=loss).supervised_loss(logits[:1, :1], labels[:1, :1])[0],
    )
    assert losses[1] == 0
    losses.sum().backward()
    assert torch.equal(logits.grad == 0, labels.isnan())
    assert kind.supervised_loss(labels.nan_to_num(7.0), labels).tolist() == [0, 0, 0]


def test_losses_are_in_units_of_the_scale() -> None:
    """The mean as an answer costs 1, 0.8 or 0.4, whatever the unit."""
    labels = 170 + 8 * torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0))
    mean = torch.full_like(labels, 170.0)
    for loss, cost in (("l2", 1.0), ("l1", 0.8), ("smooth_l1", 0.4)):
        found = regression(loss=loss, scale=8).supervised_loss(mean, labels).mean()
        assert float(found) == pytest.approx(cost, abs=0.03)
        by_teacher = regression(loss=loss, scale=8).soft_target_loss(mean, labels, 4.0).mean()
        torch.testing.assert_close(by_teacher, found)


def test_the_head_answers_in_the_labels_unit_even_in_half_precision() -> None:
    kind = regression(scale=[2, 100], offset=[0, 12345.6])
    head = kind.head({"pooled": FeatureShape(4, None)})
    assert sorted(head.state_dict()) == ["standardised.linear.bias", "standardised.linear.weight"]
    for parameter in head.parameters():
        parameter.data.zero_()
    with torch.autocast("cpu", torch.bfloat16):
        answer = head({"pooled": torch.randn(3, 4)})
    assert answer.dtype == torch.float32
    torch.testing.assert_close(answer, torch.tensor([[0.0, 12345.6]]).expand(3, 2))


def test_a_teacher_bounds_the_student_where_the_label_is_known() -> None:
    """Equation (4) of Chen et al. 2017: the student's squared error, unless it beats the teacher's by the margin."""
    labels, teacher = torch.zeros(5, 2), torch.full((5, 2), 2.0)  # whose mean squared error is 4
    student = torch.tensor([[3.0, 3.0], [2.0, 2.0], [1.9, 1.9], [1.0, 1.0], [1.0, 1.0]])
    labelled = torch.tensor([True, True, True, True, False])
    kind = regression(loss="l2", bounded=1.0)
    losses = kind.soft_target_loss(student, teacher, 1.0, Truth(labels, labelled))
    torch.testing.assert_close(losses, torch.tensor([9.0, 4.0, 1.9**2, 0.0, 1.0]))
    tight = regression(loss="l2", bounded=0.0)
    losses = tight.soft_target_loss(student, teacher, 1.0, Truth(labels, labelled))
    torch.testing.assert_close(losses, torch.tensor([9.0, 0.0, 0.0, 0.0, 1.0]))
    plain = kind.soft_target_loss(student, teacher, 1.0)
    torch.testing.assert_close(plain, ((student - teacher) ** 2).mean(1))


def test_bounded_values_and_unknown_ones_stand_side_by_side() -> None:
    labels = torch.tensor([[0.0, NAN]])
    student = torch.tensor([[3.0, 1.0]], requires_grad=True)
    kind = regression(loss="l2", bounded=0.0)
    loss = kind.soft_target_loss(
        student, torch.tensor([[1.0, 2.0]]), 1.0, Truth(labels, torch.tensor([True]))
    )
    assert loss.tolist() == [(9 + 1) / 2]
    loss.sum().backward()
    assert student.grad.tolist() == [[3.0, -1.0]]


def test_scores_are_those_of_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.tensor([1000.0, 0.0]) + torch.randn(50, 2, generator=generator) * torch.tensor([3.0, 0.1])
    logits = labels + 0.3 * torch.randn(50, 2, generator=generator) * torch.tensor([3.0, 0.1])
    wanted = {
        "r2": 100 * R2Score(multioutput="uniform_average")(logits, labels),
        "mae": MeanAbsoluteError(num_outputs=2)(logits, labels).mean(),
        "rmse": MeanSquaredError(squared=False, num_outputs=2)(logits, labels).mean(),
    }
    for metric, want in wanted.items():
        for options in ({}, {"scale": [3.0, 0.1], "offset": [1000.0, 0.0]}):
            kind = regression(metric, **options)
            score = float(kind.score(kind.statistics(logits, labels)))
            assert score == pytest.approx(float(want), rel=1e-4), metric


def test_scores_by_hand_with_unknown_values() -> None:
    labels = torch.tensor([[1.0, NAN], [3.0, 10.0], [NAN, 20.0]])
    logits = torch.tensor([[2.0, 99.0], [3.0, 10.0], [99.0, 16.0]])
    wanted = {
        "mae": (1 / 2 + 4 / 2) / 2,
        "rmse": (0.5**0.5 + 8**0.5) / 2,
        "r2": 100 * (1 / 2 + 1 - 16 / 50) / 2,
    }
    for metric, want in wanted.items():
        kind = regression(metric)
        assert float(kind.score(kind.statistics(logits, labels))) == pytest.approx(want)
    assert not regression("mae").in_points
    assert regression("r2").in_points
    assert regression("r2").higher_is_better


def test_signs_and_places_change_when_the_picture_is_mirrored() -> None:
    kind = build_kind("regression", ("yaw", "left", "right"), mirrored=[["left", "right"]], negated=["yaw"])
    label, whole = torch.tensor([10.0, 1.0, NAN]), View(0, 0, 8, 8)
    torch.testing.assert_close(kind.transform_label(label, whole, (8, 8), (8, 8)), label, equal_nan=True)
    seen = kind.transform_label(label, whole._replace(flip=True), (8, 8), (8, 8))
    torch.testing.assert_close(seen, torch.tensor([-10.0, NAN, 1.0]), equal_nan=True)
    assert label[0] == 10


def test_agreement_is_the_share_of_values_that_hardly_differ() -> None:
    kind = regression(scale=10)
    logits, other = torch.tensor([[0.0, 5.0], [1.0, 2.0]]), torch.tensor([[0.9, 6.5], [1.0, 2.5]])
    assert kind.agreement(logits, other).tolist() == [0.5, 1.0]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"loss": "huber"}, "loss: .*'huber'.*smooth_l1, l1, l2"),
        ({"scale": [1, 2, 3]}, "scale: .*yaw, pitch"),
        ({"scale": 0}, "scale: found 0"),
        ({"offset": "mean"}, "offset: found 'mean'"),
        ({"bounded": -1}, "bounded: found -1"),
        ({"negated": ["jaw"]}, r"negated.*'jaw'.*'yaw'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict, why: str) -> None:
    with pytest.raises(UserError, match=why):
        regression(**options)


def test_answers_and_captions_are_values() -> None:
    kind, image = regression(), torch.zeros(3, 4, 4, dtype=torch.uint8)
    assert kind.decode(torch.tensor([[2.0, -1.0]]), (4, 4))["values"].tolist() == [[2.0, -1.0]]
    assert kind.show_answer(torch.tensor([2.0, -1.25]), image).caption == "yaw 2, pitch -1.25"
    assert kind.show_label(torch.tensor([2.0, NAN]), image).caption == "yaw 2"


@pytest.mark.parametrize("strange", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("metric", ["mae", "rmse", "r2"])
def test_an_answer_that_is_no_number_is_never_the_right_one(metric: str, strange: float) -> None:
    kind = build_kind("regression", ["age"], metric)
    labels = torch.tensor([[1.0], [2.0], [3.0]])
    statistics = kind.statistics(torch.tensor([[1.0], [strange], [3.0]]), labels)
    score = float(kind.score(statistics))
    assert math.isfinite(score)
    assert score < -1e6 if kind.higher_is_better else score > 1e6
