"""Surface normals: labels on disk, mirrors, a loss that is exactly 0 at its floor, angles, the best constant."""

import math

import numpy as np
import pytest
import torch
from surface_toys import directions, facing, npy, png, seen_in_training, shards
from torch import Tensor
from torchmetrics.functional import cosine_similarity

from distill_mtl.errors import UserError
from distill_mtl.geometry.views import View
from distill_mtl.networks.features import FeatureShape
from distill_mtl.tasks.base import TaskKind, build_kind
from distill_mtl.tasks.normals import Directions, Normals

METRICS = Normals.metrics


def normals(metric: str | None = None) -> Normals:
    kind = build_kind("normals", (), metric)
    assert isinstance(kind, Normals)
    return kind


def example(rows: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Student, teacher of another size, both of any length, and labels whose first lines are not known."""
    generator = torch.Generator().manual_seed(0)
    labels = directions(rows, 3, 8, 8, seed=1)
    labels[:, :, :2] = 0
    student = torch.randn(rows, 3, 4, 4, generator=generator)
    return student, 3 * torch.randn(rows, 3, 8, 8, generator=generator), labels


def score(kind: TaskKind, logits: Tensor, labels: Tensor) -> float:
    return float(kind.score(kind.statistics(logits, labels)))


def at(*degrees: float) -> Tensor:
    """[1, 3, 1, N]: directions so far from z, towards x."""
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angles.sin(), 0 * angles, angles.cos()])[None, :, None].float()


def ahead(number: int) -> Tensor:
    return at(*[0.0] * number)


# ---- labels on disk ---------------------------------------------------------------------------------
def test_a_picture_of_colours_is_read_as_unit_vectors() -> None:
    pixels = np.array(
        [[[255, 128, 128], [128, 128, 255], [0, 128, 128], [0, 0, 0], [128, 128, 128]]], np.uint8
    )
    label = normals().read_label(png(pixels))
    assert label.shape == (3, 1, 5)
    assert label.dtype == torch.float32
    want = torch.tensor([[1.0, 0, 0], [0, 0, 1], [-1, 0, 0], [0, 0, 0], [0, 0, 0]]).mT[:, None]
    torch.testing.assert_close(label, want, atol=0.01, rtol=0)
    assert (label[:, 0, 3:] == 0).all()  # black, and mid-grey, say nothing
    torch.testing.assert_close(label[:, 0, :3].norm(dim=0), torch.ones(3))


def test_an_array_is_brought_to_length_1() -> None:
    array = np.array([[[0, 0, 4.0], [3, 0, 4], [0, 0, 0], [np.nan, 0, 1], [np.inf, 0, 0], [1e-30, 0, 0]]])
    label = normals().read_label(npy(array))
    want = torch.tensor([[0, 0, 1], [0.6, 0, 0.8], [0, 0, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0]]).mT[:, None]
    torch.testing.assert_close(label, want)


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (png(np.zeros((4, 4), dtype=np.uint8)), "mode L"),
        (png(np.zeros((4, 4, 4), dtype=np.uint8)), "mode RGBA"),
        (npy(np.ones((3, 4, 5), dtype=np.float32)), "3x4x5"),
        (npy(np.ones((4, 4, 3), dtype=np.uint8)), "uint8.*floats"),
        (b"GIF89a", "PNG.*npy.*GIF89a"),
    ],
)
def test_a_label_that_makes_no_sense_is_refused_in_words(payload: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        normals().read_label(payload)


@pytest.mark.parametrize("member", ["normals.png", "normals.npy"])
def test_labels_fit_the_cropped_and_mirrored_pictures_of_a_shard(tmp_path, member: str) -> None:
    images, labels, mirrored = seen_in_training(shards(tmp_path, member), normals())
    assert 0 < mirrored.sum() < len(mirrored)
    want = facing(images)
    want[mirrored, 0] *= -1
    apart = (labels - want).abs()
    assert apart.max() < 0.2  # the nearest pixel beside a mean of several
    assert apart.mean() < 0.03
    torch.testing.assert_close(labels.norm(dim=1), torch.ones(len(labels), 8, 8))


def test_a_mirror_turns_right_to_left_and_leaves_the_label_itself_as_it_is() -> None:
    label = at(30.0, 60.0)[0]
    before = label.clone()
    seen = normals().transform_label(label, View(0, 0, 1, 2, flip=True), (1, 2), (1, 2))
    torch.testing.assert_close(seen, torch.stack([-label[0], label[1], label[2]]).flip(2))
    assert torch.equal(normals().transform_label(label, View(0, 0, 1, 2), (1, 2), (1, 2)), label)
    assert torch.equal(label, before)


def test_pixels_beyond_the_picture_have_no_label() -> None:
    seen = normals().transform_label(at(10.0, 20.0)[0], View(-1, 0, 3, 2, flip=True), (1, 2), (3, 2))
    assert (seen[:, [0, 2]] == 0).all()
    assert not normals().has_label(normals().filler((4, 4)))
    assert normals().has_label(seen)


# ---- losses -----------------------------------------------------------------------------------------
def test_agreeing_costs_exactly_nothing_and_pulls_nowhere() -> None:
    logits = example()[0].requires_grad_()
    losses = normals().soft_target_loss(logits, logits.detach().clone(), 2.0)
    assert torch.equal(losses, torch.zeros(6))
    assert torch.autograd.grad(losses.sum(), logits)[0].abs().max() == 0
    labels = directions(6, 3, 8, 8)
    assert normals().supervised_loss(labels, labels).max() < 1e-12
    assert normals().supervised_loss(7 * labels, labels).max() < 1e-12
    nearly = logits.detach() + 1e-6 * torch.randn(6, 3, 4, 4)
    assert (normals().soft_target_loss(logits, nearly, 1.0) >= 0).all()


def test_the_loss_is_one_minus_the_cosine() -> None:
    logits, labels = example()[1], directions(6, 3, 8, 8)
    cosines = cosine_similarity(
        logits.movedim(1, -1).reshape(-1, 3), labels.movedim(1, -1).reshape(-1, 3), reduction="none"
    )
    want = (1 - cosines).view(6, -1).mean(1)
    torch.testing.assert_close(normals().supervised_loss(logits, labels), want)
    torch.testing.assert_close(normals().soft_target_loss(logits, 5 * labels, 3.0), want)
    assert normals().supervised_loss(at(60.0), at(0.0)).item() == pytest.approx(0.5)
    assert normals().supervised_loss(at(180.0), at(0.0)).item() == pytest.approx(2)


def test_the_gradient_reaches_the_student_alone_and_leads_to_the_teacher() -> None:
    logits, teacher, _ = example()
    logits.requires_grad_()
    teacher.requires_grad_()
    losses = normals().soft_target_loss(logits, teacher, 1.0)
    losses.sum().backward()
    assert teacher.grad is None
    assert logits.grad is not None
    nearer = normals().soft_target_loss(logits.detach() - 0.01 * logits.grad, teacher, 1.0)
    assert (nearer < losses).all()


def test_a_student_without_a_direction_has_a_finite_gradient() -> None:
    logits = torch.zeros(1, 3, 2, 2, requires_grad=True)
    losses = normals().supervised_loss(logits, directions(1, 3, 2, 2))
    losses.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize("nothing", [0.0, math.nan, math.inf])
def test_pixels_on_which_the_teacher_is_silent_teach_nothing(nothing: float) -> None:
    logits, teacher = example()[0][:2].requires_grad_(), directions(2, 3, 4, 4)
    teacher[0, :, :2], teacher[1] = nothing, nothing
    losses = normals().soft_target_loss(logits, teacher, 1.0)
    losses.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0, :, :2].abs().max() == 0
    assert logits.grad[0, :, 2:].abs().sum() > 0
    assert (losses[1], logits.grad[1].abs().max()) == (0, 0)
    cut = normals().soft_target_loss(logits[:1, :, 2:], teacher[:1, :, 2:], 1.0)
    torch.testing.assert_close(losses[:1], cut)


def test_pixels_without_a_label_change_nothing() -> None:
    _, logits, labels = example()
    other = logits.clone()
    other[:, :, :2] = 9
    assert torch.equal(normals().supervised_loss(logits, labels), normals().supervised_loss(other, labels))
    cut = normals().supervised_loss(logits[:, :, 2:], labels[:, :, 2:])
    torch.testing.assert_close(normals().supervised_loss(logits, labels), cut)
    for metric in METRICS:
        assert torch.equal(
            normals(metric).statistics(logits, labels), normals(metric).statistics(other, labels)
        )
    nothing = torch.zeros(1, 3, 8, 8)
    assert normals().supervised_loss(logits[:1], nothing).item() == 0
    assert normals("median_angle").statistics(logits[:1], nothing).sum() == 0


@pytest.mark.parametrize("metric", METRICS)
def test_no_number_depends_on_how_rows_are_split_or_on_half_precision(metric: str) -> None:
    kind, (logits, teacher, labels) = normals(metric), example()
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
    assert torch.equal(kind.statistics(half, labels), kind.statistics(half.float(), labels))


# ---- scores -----------------------------------------------------------------------------------------
def test_scores_by_hand() -> None:
    answers = at(2.0, 4.0, 11.0, 90.0, 180.0)
    labels = ahead(5)
    assert score(normals("mean_angle"), answers, labels) == pytest.approx(287 / 5, rel=1e-4)
    assert score(normals("median_angle"), answers, labels) == pytest.approx(11, abs=0.1)
    assert score(normals("within_11_25"), answers, labels) == pytest.approx(60)
    assert [normals(metric).higher_is_better for metric in METRICS] == [False, False, True]
    assert all(normals(metric).in_points for metric in METRICS)
    assert score(normals(), torch.zeros(1, 3, 1, 5), labels) == pytest.approx(90)
    assert score(normals(), torch.full((1, 3, 1, 5), math.nan), labels) == pytest.approx(90)


@pytest.mark.parametrize("seed", range(5))
def test_the_median_is_off_by_no_more_than_a_bin(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    degrees = 180 * torch.rand(1 + 37 * seed, generator=generator).pow(3)
    answers = at(*degrees.tolist())
    said = score(normals("median_angle"), answers, ahead(len(degrees)))
    assert said == pytest.approx(degrees.median().item(), abs=0.1)


@pytest.mark.parametrize("metric", METRICS)
def test_scores_follow_from_weighted_and_from_summed_rows(metric: str) -> None:
    kind, (logits, _, labels) = normals(metric), example()
    rows = kind.statistics(logits, labels)
    weights = torch.tensor([[1.0] * 6, [2, 0, 1, 0, 0, 3]], dtype=torch.float64)
    drawn = rows[[0, 0, 2, 5, 5, 5]]
    torch.testing.assert_close(kind.score(rows, weights), torch.stack([kind.score(rows), kind.score(drawn)]))
    torch.testing.assert_close(kind.score(torch.stack([rows[:2].sum(0), rows[2:].sum(0)])), kind.score(rows))


@pytest.mark.parametrize("spread", [0.05, 0.4, 5.0])
def test_the_best_constant_is_as_if_labels_were_turned_a_little(spread: float) -> None:
    """Against many constant directions tried one by one."""
    generator = torch.Generator().manual_seed(3)
    mean = torch.tensor([0.2, -0.5, 0.8]).view(1, 3, 1, 1)
    labels = torch.nn.functional.normalize(
        mean + spread * torch.randn(4, 3, 16, 16, generator=generator), dim=1
    )
    labels[0, :, :4] = 0
    tried = torch.nn.functional.normalize(
        torch.cat([torch.randn(600, 3, generator=generator), 0.1 * torch.randn(300, 3) + mean.flatten()]),
        dim=1,
    )
    true = labels.movedim(1, -1)[labels.any(dim=1)]
    angles = torch.rad2deg((tried @ true.T).clamp(-1, 1).acos())
    error = Directions.error

    def said(metric: str) -> float:
        kind = normals(metric)
        return kind.constant_score(sum(kind.label_counts(part) for part in labels.split(1)))

    assert angles.mean(1).min() - error < said("mean_angle") < angles.mean(1).min() + 1
    assert angles.median(1)[0].min() - error < said("median_angle") < angles.median(1)[0].min() + 4
    least, most = ((angles < 11.25 + more).double().mean(1).max() * 100 for more in (-error / 2, error))
    assert least <= said("within_11_25") <= most


def test_no_vector_is_farther_from_its_cells_mean_direction_than_is_said() -> None:
    lone = directions(4000, 3, 1, 1).view(4000, 3)
    counted = Directions(Directions.count(lone))
    assert counted.pixels.sum() == 4000
    nearest = torch.rad2deg((lone.double() @ counted.means_of_cells.T).clamp(-1, 1).acos()).min(1)[0]
    assert nearest.max() < Directions.error
    poles = torch.cat([torch.eye(3), -torch.eye(3)])
    assert len(Directions(Directions.count(poles)).pixels) == 6


def test_agreement_is_the_share_of_pixels_that_face_alike() -> None:
    one, other = at(0.0, 0.0, 0.0, 0.0), at(5.0, 11.0, 12.0, 90.0)
    assert normals().agreement(one, one).tolist() == [1]
    assert normals().agreement(one, 3 * other).tolist() == normals().agreement(other, one).tolist() == [0.5]


# ---- the network and people -------------------------------------------------------------------------
def test_the_answer_has_length_1_at_every_size() -> None:
    kind = normals()
    head = kind.head({"map": FeatureShape(8, (4, 4), pyramid=True)})
    logits = head({"map": torch.randn(2, 8, 4, 4)})
    assert logits.shape == (2, 3, 16, 16)
    answer = kind.decode(logits, (7, 9))["normals"]
    torch.testing.assert_close(answer.norm(dim=1), torch.ones(2, 7, 9))
    assert set(kind.decode(logits, (4, 4))) == {"normals"}


def test_pictures_have_the_usual_colours_and_grey_where_nothing_is_known() -> None:
    label = torch.cat([at(0.0, 90.0)[0], torch.zeros(3, 1, 1)], 2)
    picture = normals().show_label(label, torch.zeros(3, 1, 3, dtype=torch.uint8)).picture
    assert picture[:, 0].mT.tolist() == [[128, 128, 255], [255, 128, 128], [96, 96, 96]]
    assert normals().show_answer(9 * label, torch.zeros(3, 2, 6, dtype=torch.uint8)).picture.shape == (
        3,
        2,
        6,
    )


def test_classes_are_the_kinds_own() -> None:
    assert vars(build_kind(**normals("median_angle").describe())) == vars(normals("median_angle"))
    with pytest.raises(UserError, match="x, y, z.*`classes`"):
        build_kind("normals", ("u", "v", "w"))
