import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from label_shards import read_back
from torchmetrics.classification import MultilabelAccuracy, MultilabelAveragePrecision

from distill_mtl.errors import ShardError, UserError
from distill_mtl.geometry.views import View
from distill_mtl.tasks.base import TaskKind, build_kind

CLASSES = ("hat", "left_arm", "right_arm")


def multilabel(metric: str | None = None, **options: object) -> TaskKind:
    return build_kind("multilabel", CLASSES, metric, **options)


def test_labels_come_back_from_a_shard(tmp_path: Path) -> None:
    payloads = [
        b"[0, 1, null]",
        b'{"right_arm": 1, "hat": 0}',
        b'{"left_arm": null}',  # says nothing: no label
        b"[true, 0.0, false]",
    ]
    labels = read_back(tmp_path, multilabel(), payloads)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [[0, 1, -1], [0, -1, 1], [1, 0, 0]]


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"[0, 1]", "2 values.*3 names"),
        (b"[0, 1, 2]", "'right_arm' is 2"),
        (b'["yes", 1, 0]', "'hat' is \"yes\""),
        (b'{"hatt": 1}', "'hatt'.*'hat'"),
        (b"\xff\xfe", "JSON"),
        (b"[0, 1, NaN]", "NaN.*null"),
    ],
)
def test_a_label_that_makes_no_sense_is_refused_with_its_place(
    tmp_path: Path, payload: bytes, why: str
) -> None:
    with pytest.raises(ShardError, match=rf"rows\.tar.*{why}"):
        read_back(tmp_path, multilabel(), [payload])


def test_unknown_labels_change_nothing() -> None:
    kind = multilabel()
    logits = torch.randn(4, 3, requires_grad=True)
    labels = torch.tensor([[1, 0, -1], [0, -1, -1], [-1, -1, -1], [1, 1, 0]])
    losses = kind.supervised_loss(logits, labels)
    want = F.binary_cross_entropy_with_logits(logits[0, :2], torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(losses[0], want)
    assert losses[2] == 0
    losses.sum().backward()
    assert torch.equal(logits.grad == 0, labels == -1)


def test_forty_attributes_weigh_as_much_as_one() -> None:
    one, forty = build_kind("multilabel", ["a"]), build_kind("multilabel", [str(n) for n in range(40)])
    logits, teacher, labels = torch.randn(2, 1), torch.randn(2, 1), torch.tensor([[1], [0]])
    for loss in ("supervised_loss", "soft_target_loss"):
        second = labels if loss == "supervised_loss" else teacher
        more = () if loss == "supervised_loss" else (4.0,)
        torch.testing.assert_close(
            getattr(one, loss)(logits, second, *more),
            getattr(forty, loss)(logits.expand(-1, 40), second.expand(-1, 40), *more),
        )


def test_soft_targets_are_bernoulli_divergences() -> None:
    logits, teacher = torch.randn(5, 3), torch.randn(5, 3)
    p, q = (teacher / 2).sigmoid().double(), (logits / 2).sigmoid().double()
    want = 4 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean(1)
    torch.testing.assert_close(multilabel().soft_target_loss(logits, teacher, 2.0), want.float())


def test_extreme_logits_stay_finite() -> None:
    logits, teacher = torch.tensor([[300.0, -300.0, 0.0]]), torch.tensor([[-300.0, 300.0, -1e4]])
    logits.requires_grad_()
    loss = multilabel().soft_target_loss(logits, teacher, 1.0)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("unknown", [False, True])
def test_scores_are_those_of_torchmetrics(unknown: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(40, 3, generator=generator).round(decimals=1)  # with ties
    labels = torch.randint(2, (40, 3), generator=generator)
    labels[:, 2] = 0  # a class without a positive
    if unknown:
        labels[torch.rand(40, 3, generator=generator) < 0.3] = -1
    ignore = -1 if unknown else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = {
            "map": MultilabelAveragePrecision(3, average="none", ignore_index=ignore)(logits, labels)[
                :2
            ].mean(),
            "error": 1
            - MultilabelAccuracy(3, average="macro", ignore_index=ignore)(logits.sigmoid(), labels),
        }
    for metric, want in wanted.items():
        kind = multilabel(metric)
        assert float(kind.score(kind.statistics(logits, labels))) == pytest.approx(
            100 * float(want), abs=1e-4
        )


def test_scores_by_hand() -> None:
    logits = torch.tensor([[2.0, 1.0, -1.0], [1.0, -1.0, -1.0], [-1.0, 3.0, 2.0]])
    labels = torch.tensor([[1, 0, 0], [0, 1, -1], [1, 1, 1]])
    # hat: right, wrong, right (precision 1, 2/3); left arm: right (first), wrong, right (last); right arm: right
    precision = (1 / 2 * 1 + 1 / 2 * 2 / 3 + 1 / 2 * 1 + 1 / 2 * 2 / 3 + 1) / 3
    kind = multilabel()
    assert float(kind.score(kind.statistics(logits, labels))) == pytest.approx(100 * precision)
    kind = multilabel("error")
    assert not kind.higher_is_better
    assert float(kind.score(kind.statistics(logits, labels))) == pytest.approx(100 * (2 / 3 + 2 / 3 + 0) / 3)


def test_classes_that_a_teacher_does_not_know_can_be_left_out() -> None:
    labels = torch.tensor([[1, 0, 1], [0, -1, 1]])
    assert multilabel().keep_known_classes(labels, (0, 1)).tolist() == [[1, 0, -1], [0, -1, -1]]
    assert labels.tolist() == [[1, 0, 1], [0, -1, 1]]


def test_left_and_right_change_places_when_the_picture_is_mirrored() -> None:
    kind = multilabel(mirrored=[["left_arm", "right_arm"]])
    label, whole = torch.tensor([1, 0, -1]), View(0, 0, 8, 8)
    assert kind.transform_label(label, whole, (8, 8), (8, 8)).tolist() == [1, 0, -1]
    mirrored = whole._replace(flip=True)
    assert kind.transform_label(label, mirrored, (8, 8), (8, 8)).tolist() == [1, -1, 0]
    assert multilabel().transform_label(label, mirrored, (8, 8), (8, 8)).tolist() == [1, 0, -1]
    assert label.tolist() == [1, 0, -1]


@pytest.mark.parametrize(
    ("mirrored", "why"),
    [
        ([["left_arm", "rigth_arm"]], "'rigth_arm'.*'right_arm'"),
        ([["left_arm"]], "mirrored.*pairs"),
        (["left_arm"], "mirrored.*pairs"),
        ([["hat", "left_arm"], ["left_arm", "right_arm"]], "once: left_arm"),
    ],
)
def test_pairs_that_make_no_sense_are_refused(mirrored: list, why: str) -> None:
    with pytest.raises(UserError, match=why):
        multilabel(mirrored=mirrored)


def test_probabilities_are_told_from_logits() -> None:
    kind, logits = multilabel(), torch.randn(4, 3) * 3
    assert not kind.are_probabilities(logits)
    assert kind.are_probabilities(logits.sigmoid())
    assert not kind.are_probabilities((logits > 0).float())
    torch.testing.assert_close(kind.logits_of(logits.sigmoid()), logits, atol=1e-3, rtol=1e-3)
    assert torch.isfinite(kind.logits_of(torch.tensor([[0.0, 1.0, 0.5]]))).all()


def test_answers_and_captions_name_what_is_there() -> None:
    kind, image = multilabel(), torch.zeros(3, 4, 4, dtype=torch.uint8)
    decoded = kind.decode(torch.tensor([[2.0, -1.0, 0.5]]), (4, 4))
    assert decoded["label"].tolist() == [[1, 0, 1]]
    assert decoded["probabilities"][0, 0] == pytest.approx(0.8808, abs=1e-4)
    assert kind.show_answer(torch.tensor([2.0, -1.0, 0.5]), image).caption == "hat, right_arm"
    assert kind.show_label(torch.tensor([0, -1, 0]), image).caption == "none (1 unknown)"
