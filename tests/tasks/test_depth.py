"""Depth: labels on disk, losses without a unit, scores, pixels without a label, the head's first depths."""

import math

import numpy as np
import pytest
import torch
from surface_toys import npy, png, seen_in_training, shards
from torch import Tensor
from torchmetrics.functional import mean_absolute_percentage_error, mean_squared_error

from distill_mtl.errors import UserError
from distill_mtl.networks.features import FeatureShape
from distill_mtl.tasks.base import TaskKind, build_kind
from distill_mtl.tasks.depth import Depth

LOSSES = ("l1", "silog")
METRICS = Depth.metrics


def depth(metric: str | None = None, **options: object) -> Depth:
    kind = build_kind("depth", (), metric, **options)
    assert isinstance(kind, Depth)
    return kind


def depths(*shape: int, seed: int = 0) -> Tensor:
    """From 0.5 to 5 metres."""
    return 0.5 + 4.5 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def example(rows: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Student, teacher of another size, and labels whose first lines are not known."""
    labels = depths(rows, 8, 8, seed=2)
    labels[:, :2] = 0
    return depths(rows, 1, 4, 4), depths(rows, 1, 8, 8, seed=1), labels


def score(kind: TaskKind, logits: Tensor, labels: Tensor) -> float:
    return float(kind.score(kind.statistics(logits, labels)))


# ---- labels on disk ---------------------------------------------------------------------------------
def test_a_picture_of_16_bits_is_read_in_the_unit_of_its_scale() -> None:
    payload = png(np.array([[0, 1500, 65535]], dtype=np.uint16))
    torch.testing.assert_close(depth().read_label(payload), torch.tensor([[0, 1.5, 65.535]]))
    assert depth(scale=1).read_label(payload).tolist() == [[0, 1500, 65535]]
    assert depth().read_label(payload).dtype == torch.float32


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_an_array_is_read_as_it_stands_without_what_is_no_depth(dtype: type) -> None:
    array = np.array([[2.5, 0, -1, np.nan, np.inf, 0.25]], dtype=dtype)
    label = depth(scale=7).read_label(npy(array))
    assert label.tolist() == [[2.5, 0, 0, 0, 0, 0.25]]
    assert label.dtype == torch.float32


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (png(np.zeros((4, 4), dtype=np.uint8)), "mode L"),
        (png(np.zeros((4, 4, 3), dtype=np.uint8)), "mode RGB"),
        (png(np.zeros((8, 8, 3), dtype=np.uint8), "JPEG"), "neither a PNG nor an npy"),
        (png(np.full((64, 64), 900, dtype=np.uint16))[:60], "PNG picture that cannot be read"),
        (npy(np.ones((4, 4, 1), dtype=np.float32)), "4x4x1"),
        (npy(np.ones((4, 4), dtype=np.uint16)), "uint16.*floats"),
        (npy(np.ones((4, 4), dtype=np.float32))[:90], "npy file cannot be read"),
        (npy(np.array([object()])), "npy file cannot be read"),
        (b"", "neither a PNG nor an npy"),
    ],
)
def test_a_label_that_makes_no_sense_is_refused_in_words(payload: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        depth().read_label(payload)


@pytest.mark.parametrize("member", ["depth.png", "depth.npy"])
def test_labels_fit_the_cropped_and_mirrored_pictures_of_a_shard(tmp_path, member: str) -> None:
    images, labels, mirrored = seen_in_training(shards(tmp_path, member), depth())
    assert 0 < mirrored.sum() < len(mirrored)
    assert (labels - (1 + images[:, 0])).abs().max() < 0.1  # the nearest pixel beside a mean of several


def test_a_label_without_any_depth_is_none() -> None:
    assert not depth().has_label(torch.zeros(4, 4))
    assert depth().has_label(torch.tensor([[0, 2.0]]))
    assert not depth().has_label(depth().filler((4, 4)))


# ---- losses -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("loss", LOSSES)
def test_agreeing_costs_nothing_and_pulls_nowhere(loss: str) -> None:
    kind = depth(loss=loss)
    logits = depths(3, 1, 4, 4).requires_grad_()
    for losses in (
        kind.soft_target_loss(logits, logits.detach().clone(), 2.0),
        kind.supervised_loss(logits, logits.detach()[:, 0]),
    ):
        assert torch.equal(losses, torch.zeros(3))
        assert torch.autograd.grad(losses.sum(), logits)[0].abs().max() == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_reaches_the_student_alone_and_leads_to_the_teacher(loss: str) -> None:
    kind, (logits, teacher, _) = depth(loss=loss), example()
    logits.requires_grad_()
    teacher.requires_grad_()
    losses = kind.soft_target_loss(logits, teacher, 1.0)
    losses.sum().backward()
    assert teacher.grad is None
    assert logits.grad is not None
    nearer = kind.soft_target_loss(logits.detach() - 0.01 * logits.grad.sign(), teacher, 1.0)
    assert (nearer < losses).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_the_same_in_metres_and_millimetres(loss: str) -> None:
    kind, (logits, teacher, labels) = depth(loss=loss), example()
    for one, other in (
        (kind.supervised_loss(logits, labels), kind.supervised_loss(1000 * logits, 1000 * labels)),
        (
            kind.soft_target_loss(logits, teacher, 1.0),
            kind.soft_target_loss(1000 * logits, 1000 * teacher, 1.0),
        ),
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_losses_by_hand() -> None:
    labels = torch.tensor([[[1.0, 4.0, 0.0]]])
    logits = torch.tensor([[[[2.0, 2.0, 9.0]]]])
    assert depth().supervised_loss(logits, labels).item() == pytest.approx((1 + 2) / 2 / 2.5)
    g = math.log(2)  # one pixel too far by it, one too near: the scale is right, the pattern is not
    assert depth(loss="silog").supervised_loss(logits, labels).item() == pytest.approx(g**2)
    twice = 2 * labels[:, None]
    assert depth(loss="silog").supervised_loss(twice, labels).item() == pytest.approx(g**2 / 2)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("nothing", [0.0, -1.0, math.nan, math.inf])
def test_pixels_on_which_the_teacher_is_silent_teach_nothing(loss: str, nothing: float) -> None:
    kind, logits = depth(loss=loss), depths(2, 1, 4, 4).requires_grad_()
    teacher = depths(2, 1, 4, 4, seed=1)
    teacher[0, :, :2], teacher[1] = nothing, nothing
    losses = kind.soft_target_loss(logits, teacher, 1.0)
    losses.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0, :, :2].abs().max() == 0
    assert logits.grad[0, :, 2:].abs().min() > 0
    assert (losses[1], logits.grad[1].abs().max()) == (0, 0)
    torch.testing.assert_close(losses[:1], kind.soft_target_loss(logits[:1, :, 2:], teacher[:1, :, 2:], 1.0))


def test_a_silent_pixel_does_not_flow_into_its_neighbours_when_the_teacher_is_resized() -> None:
    teacher = torch.full((1, 1, 4, 4), 3.0)
    teacher[..., 0, 0] = 0
    for size in (2, 8):
        assert depth().soft_target_loss(torch.full((1, 1, size, size), 3.0), teacher, 1.0) == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_pixels_without_a_label_change_nothing(loss: str) -> None:
    kind, labels = depth(loss=loss), depths(2, 6, 6)
    labels[:, :, 3:] = 0
    logits = depths(2, 1, 6, 6, seed=1)
    other = logits.clone()
    other[..., 3:] = 100
    assert torch.equal(kind.supervised_loss(logits, labels), kind.supervised_loss(other, labels))
    cut = kind.supervised_loss(logits[..., :3], labels[..., :3])
    torch.testing.assert_close(kind.supervised_loss(logits, labels), cut)
    for metric in METRICS:
        measured = depth(metric)
        assert torch.equal(measured.statistics(logits, labels), measured.statistics(other, labels))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_row_without_any_label_costs_nothing(loss: str) -> None:
    logits = depths(2, 1, 4, 4).requires_grad_()
    labels = torch.stack([depths(4, 4, seed=1), torch.zeros(4, 4)])
    losses = depth(loss=loss).supervised_loss(logits, labels)
    losses.sum().backward()
    assert losses[1] == 0
    assert logits.grad is not None
    assert logits.grad[1].abs().max() == 0
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_no_number_depends_on_how_rows_are_split_or_on_half_precision(loss: str) -> None:
    kind, (logits, teacher, labels) = depth(loss=loss), example()
    for numbers in (
        lambda rows: kind.supervised_loss(logits[rows], labels[rows]),
        lambda rows: kind.soft_target_loss(logits[rows], teacher[rows], 1.0),
        lambda rows: kind.statistics(logits[rows], labels[rows]),
        lambda rows: kind.agreement(logits[rows], teacher[rows]),
    ):
        parts = torch.cat([numbers(rows) for rows in ([0], [1, 2], [3, 4, 5])])
        torch.testing.assert_close(numbers(list(range(6))), parts)
    half = logits.bfloat16()
    assert torch.equal(kind.supervised_loss(half, labels), kind.supervised_loss(half.float(), labels))
    assert torch.equal(
        kind.soft_target_loss(half, teacher, 1.0), kind.soft_target_loss(half.float(), teacher, 1.0)
    )


# ---- scores -----------------------------------------------------------------------------------------
def test_scores_by_hand() -> None:
    labels = torch.tensor([[[2.0, 4.0, 0.0]], [[1.0, 0.0, 0.0]]])
    logits = torch.tensor([[[[3.0, 4.0, 7.0]]], [[[1.2, 5.0, 5.0]]]])
    assert score(depth("abs_rel"), logits, labels) == pytest.approx(100 * (0.5 + 0 + 0.2) / 3)
    assert score(depth("rmse"), logits, labels) == pytest.approx(math.sqrt((1 + 0 + 0.04) / 3))
    assert score(depth("delta1"), logits, labels) == pytest.approx(200 / 3)
    assert [depth(metric).higher_is_better for metric in METRICS] == [False, False, True]
    assert [depth(metric).in_points for metric in METRICS] == [True, False, True]


def test_scores_are_those_of_torchmetrics() -> None:
    logits, labels = depths(3, 1, 6, 6), depths(3, 6, 6, seed=1)
    rmse = mean_squared_error(logits[:, 0].flatten(), labels.flatten(), squared=False)
    assert score(depth("rmse"), logits, labels) == pytest.approx(rmse.item(), rel=1e-6)
    ratio = mean_absolute_percentage_error(logits[:, 0].flatten(), labels.flatten())
    assert score(depth("abs_rel"), logits, labels) == pytest.approx(100 * ratio.item(), rel=1e-6)


def test_what_is_no_depth_counts_as_zero() -> None:
    labels, logits = torch.ones(1, 1, 4), torch.tensor([[[[math.nan, -2, 0, math.inf]]]])
    assert score(depth("abs_rel"), logits, labels) == 100
    assert score(depth("rmse"), logits, labels) == 1
    assert score(depth("delta1"), logits, labels) == 0


@pytest.mark.parametrize("metric", METRICS)
def test_scores_follow_from_weighted_and_from_summed_rows(metric: str) -> None:
    kind, (logits, _, labels) = depth(metric), example()
    rows = kind.statistics(logits, labels)
    weights = torch.tensor([[1.0] * 6, [2, 0, 1, 0, 0, 3]], dtype=torch.float64)
    drawn = rows[[0, 0, 2, 5, 5, 5]]
    torch.testing.assert_close(kind.score(rows, weights), torch.stack([kind.score(rows), kind.score(drawn)]))
    torch.testing.assert_close(kind.score(torch.stack([rows[:2].sum(0), rows[2:].sum(0)])), kind.score(rows))


@pytest.mark.parametrize("metric", METRICS)
def test_the_best_constant_is_right_up_to_the_bin(metric: str) -> None:
    """Against many constant depths tried one by one."""
    kind, labels = depth(metric), depths(4, 8, 8).square()
    labels[0, :3] = 0
    said = kind.constant_score(sum(kind.label_counts(part) for part in labels.split(2)))
    tried, true = 0.2 * 1.002 ** torch.arange(2600)[:, None], labels[labels > 0]
    if metric == "abs_rel":
        assert said == pytest.approx(100 * ((tried - true).abs() / true).mean(1).min().item(), rel=0.01)
    elif metric == "rmse":
        assert said == pytest.approx(true.std(correction=0).item(), rel=0.01)
    else:
        apart = (tried / true).log().abs()
        least, most = (100 * (apart < math.log(1.25) + more).float().mean(1).max() for more in (-0.01, 0.01))
        assert least <= said <= most
    constant = torch.full((4, 1, 8, 8), true.mean().item())
    sign = 1 if kind.higher_is_better else -1
    assert sign * score(kind, constant, labels) <= sign * said + 0.01 * said


def test_agreement_is_the_share_of_pixels_within_a_quarter() -> None:
    logits = depths(2, 1, 4, 4)
    other = logits.clone()
    other[0, :, :1] *= 1.3
    other[1] *= 1.2
    assert depth().agreement(logits, logits).tolist() == [1, 1]
    assert depth().agreement(logits, other).tolist() == depth().agreement(other, logits).tolist() == [0.75, 1]
    assert depth().agreement(torch.zeros(1, 1, 2, 2), logits[:1]).item() == 0


# ---- the network and people -------------------------------------------------------------------------
def test_a_new_head_starts_about_the_typical_depth_and_never_overflows() -> None:
    shapes = {"map": FeatureShape(8, (4, 4), pyramid=True)}
    torch.manual_seed(0)
    for typical in (2.0, 3000.0):
        head = depth(typical=typical).head(shapes)
        first = head({"map": torch.randn(16, 8, 4, 4)})
        assert first.shape == (16, 1, 16, 16)
        assert first.min() > 0
        assert 0.7 * typical < first.log().mean().exp() < 1.4 * typical
        with torch.no_grad():
            head.fuse[-1].weight *= 1e6
        wild = head({"map": torch.randn(16, 8, 4, 4)})
        assert torch.isfinite(wild).all()
        assert wild.min() > 0


def test_depths_are_decoded_at_other_sizes() -> None:
    logits = torch.tensor([[[[1.0, 3.0]]]])
    assert depth().decode(logits, (2, 4))["depth"].tolist() == [[[1, 1.5, 2.5, 3]] * 2]
    assert depth().decode(logits.half(), (5, 7))["depth"].shape == (1, 5, 7)


def test_pictures_are_lighter_the_nearer_and_grey_where_nothing_is_known() -> None:
    label = torch.linspace(1, 4, 50).repeat(2, 1)
    label[1] = 0
    shown = depth().show_label(label, torch.zeros(3, 2, 50, dtype=torch.uint8))
    picture = shown.picture
    light = picture[:, 0].float().mT @ torch.tensor([0.2126, 0.7152, 0.0722])
    assert (light.diff() <= 0).all()
    assert light[0] > 2 * light[-1]
    assert (picture[:, 1] == 96).all()
    assert shown.caption == "1.06 to 3.94"
    assert list(shown.legend.colors) == ["1.06", "2.04", "3.94"]
    answer = depth().show_answer(depths(1, 4, 4), torch.zeros(3, 8, 8, dtype=torch.uint8))
    assert answer.picture.shape == (3, 8, 8)
    assert answer.picture.dtype == torch.uint8
    assert (depth().show_label(torch.zeros(2, 2), picture).picture == 96).all()


def test_options_are_kept_and_wrong_ones_refused() -> None:
    kind = depth("rmse", scale=0.01, typical=20, loss="silog", head={"width": 8})
    assert vars(build_kind(**kind.describe())) == vars(kind)
    with pytest.raises(UserError, match="Did you mean 'silog'"):
        depth(loss="sillog")
    with pytest.raises(UserError, match="scale.*found 0"):
        depth(scale=0)
    with pytest.raises(UserError, match="typical.*'far'"):
        depth(typical="far")
    with pytest.raises(UserError, match="depth.*`classes`"):
        build_kind("depth", ("near", "far"))
