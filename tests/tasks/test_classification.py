"""Classification: labels on disk, scores, answers."""

import pytest
import torch
from torch.nn import functional as F
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_f1_score,
)

from distill_mtl.errors import UserError
from distill_mtl.networks.features import FeatureShape
from distill_mtl.tasks.base import HeadShape
from distill_mtl.tasks.classification import Classification
from distill_mtl.tasks.heads import PooledHead

PETS = ("cat", "dog", "bird")


def test_labels_are_numbers_or_names() -> None:
    kind = Classification(PETS)
    for payload, index in ((b"2", 2), (b"0\n", 0), (b" dog \r\n", 1), (b"cat", 0)):
        label = kind.read_label(payload)
        assert label.item() == index
        assert label.dtype == torch.int64
        assert kind.has_label(label)


@pytest.mark.parametrize("payload", [b"3", b"-1", b"horse", b"", b"1.0"])
def test_a_label_outside_the_classes_is_refused_with_what_is_known(payload: bytes) -> None:
    with pytest.raises(ValueError, match=f"label {payload.decode()!r} .*0 to 2"):
        Classification(PETS).read_label(payload)


def test_a_label_that_is_not_text_is_refused() -> None:
    with pytest.raises(ValueError, match="not text"):
        Classification(PETS).read_label(b"\xff\xd8\xff")


def test_numbers_as_class_names_are_read_only_where_they_cannot_be_mistaken() -> None:
    digits = Classification(tuple(str(digit) for digit in range(10)))
    assert digits.read_label(b"7").item() == 7
    assert Classification(("10", "20")).read_label(b"20").item() == 1
    with pytest.raises(ValueError, match=r"could be class number 1 .* or the name of class 0"):
        Classification(("1", "2", "3")).read_label(b"1")


def test_accuracy_by_hand_and_as_torchmetrics_has_it() -> None:
    kind = Classification(PETS)
    logits = torch.eye(3)[[0, 1, 1, 2]]
    labels = torch.tensor([0, 1, 2, 2])
    assert kind.score(kind.statistics(logits, labels)).item() == 75
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(200, 3, generator=generator)
    labels = torch.randint(3, (200,), generator=generator)
    expected = multiclass_accuracy(logits, labels, num_classes=3, average="micro")
    assert kind.score(kind.statistics(logits, labels)).item() == pytest.approx(100 * expected.item())


def test_balanced_accuracy_is_the_mean_recall_of_the_classes_that_occur() -> None:
    kind = Classification(PETS, "balanced_accuracy")
    logits = torch.eye(3)[[0, 0, 0, 1, 2]]
    labels = torch.tensor([0, 0, 0, 0, 1])  # class 0: 3 of 4, class 1: 0 of 1, class 2 does not occur
    assert kind.score(kind.statistics(logits, labels)).item() == 37.5
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(200, 3, generator=generator)
    labels = torch.randint(3, (200,), generator=generator)
    expected = multiclass_accuracy(logits, labels, num_classes=3, average="macro")
    assert kind.score(kind.statistics(logits, labels)).item() == pytest.approx(100 * expected.item())


DIGITS = tuple(f"digit{index}" for index in range(8))


def random_answers(known: int = 8, rows: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of which some classes may be absent, right more often than chance has it."""
    generator = torch.Generator().manual_seed(known)
    labels = torch.randint(known, (rows,), generator=generator)
    logits = 2 * torch.randn(rows, 8, generator=generator) + 2 * F.one_hot(labels, 8)
    return logits, labels


def test_top5_by_hand_and_as_torchmetrics_has_it() -> None:
    kind = Classification(DIGITS, "top5")
    logits = torch.arange(8.0).expand(2, 8)
    assert kind.score(kind.statistics(logits, torch.tensor([3, 2]))).item() == 50
    logits, labels = random_answers()
    expected = multiclass_accuracy(logits, labels, num_classes=8, average="micro", top_k=5)
    assert kind.score(kind.statistics(logits, labels)).item() == pytest.approx(100 * expected.item())
    counts = torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8])
    assert kind.constant_score(counts) == pytest.approx(100 * 30 / 36)


def test_top5_of_five_classes_is_refused() -> None:
    with pytest.raises(UserError, match="top5 of 5 classes"):
        Classification(DIGITS[:5], "top5")


def test_macro_f1_by_hand() -> None:
    kind = Classification(PETS, "macro_f1")
    logits = torch.eye(3)[[0, 0, 0, 1]]
    labels = torch.tensor([0, 0, 1, 1])  # birds are neither there nor seen
    assert kind.score(kind.statistics(logits, labels)).item() == pytest.approx(100 * (4 / 5 + 2 / 3) / 2)


@pytest.mark.parametrize("known", [8, 5, 1])
def test_macro_f1_is_torchmetrics_with_absent_classes_too(known: int) -> None:
    kind = Classification(DIGITS, "macro_f1")
    logits, labels = random_answers(known)
    expected = multiclass_f1_score(logits, labels, num_classes=8, average="macro")
    assert kind.score(kind.statistics(logits, labels)).item() == pytest.approx(100 * expected.item())


def test_the_calibration_error_by_hand() -> None:
    """Two rows at 3/4 of which one is right, and two sure ones of which both are."""
    kind = Classification(("no", "yes"), "ece")
    three_to_one = torch.tensor([0.0, 3.0]).log().clamp(min=0)
    logits = torch.stack([three_to_one, three_to_one, torch.tensor([99.0, 0]), torch.tensor([0, 99.0])])
    score = kind.score(kind.statistics(logits, torch.tensor([1, 0, 0, 1])))
    assert score.item() == pytest.approx(100 * (2 * 0.25 + 2 * 0) / 4)
    assert not kind.higher_is_better
    assert kind.in_points


@pytest.mark.parametrize("sharpness", [0.1, 1, 30])
def test_the_calibration_error_is_torchmetrics_also_for_sure_answers(sharpness: float) -> None:
    kind = Classification(DIGITS, "ece")
    logits, labels = random_answers()
    expected = multiclass_calibration_error(sharpness * logits, labels, num_classes=8, n_bins=15, norm="l1")
    got = kind.score(kind.statistics(sharpness * logits, labels))
    assert got.item() == pytest.approx(100 * expected.item(), rel=1e-4)


@pytest.mark.parametrize("metric", ["top5", "macro_f1", "ece"])
def test_scores_follow_from_summed_statistics(metric: str) -> None:
    kind = Classification(DIGITS, metric)
    statistics = kind.statistics(*random_answers())
    halves = torch.stack([statistics[:100].sum(0), statistics[100:].sum(0)])
    torch.testing.assert_close(kind.score(halves), kind.score(statistics))


def test_soft_targets_are_the_divergence_by_hand() -> None:
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[4.0, 0.0]])
    p = torch.softmax(torch.tensor([1.0, 0.0]), 0)
    by_hand = 16 * (p * (p / 0.5).log()).sum()
    got = Classification(("no", "yes")).soft_target_loss(student, teacher, 4.0)
    torch.testing.assert_close(got, by_hand[None])


def test_label_smoothing_costs_a_sure_answer() -> None:
    logits, labels = 20 * torch.eye(3), torch.arange(3)
    assert Classification(PETS).supervised_loss(logits, labels).max() < 1e-6
    assert Classification(PETS, label_smoothing=0.1).supervised_loss(logits, labels).min() > 1
    with pytest.raises(UserError, match="label_smoothing"):
        Classification(PETS, label_smoothing=1.0)


def test_answers_are_probabilities_and_the_likeliest_class() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    answers = Classification(PETS).decode(logits, (32, 32))
    assert answers["label"].tolist() == [1, 0]
    torch.testing.assert_close(answers["probabilities"].sum(1), torch.ones(2))


def test_the_head_is_one_linear_layer_on_the_pooled_vector() -> None:
    head = Classification(PETS).head({"pooled": FeatureShape(5, None)})
    assert isinstance(head, PooledHead)
    pooled = torch.randn(4, 5)
    assert torch.equal(head({"pooled": pooled}), head.linear(pooled))
    assert sum(parameter.numel() for parameter in head.parameters()) == 3 * (5 + 1)


def test_a_width_that_nothing_has_is_refused() -> None:
    shapes = {"pooled": FeatureShape(5, None)}
    with pytest.raises(UserError, match=r"head\.width.*9"):
        Classification(PETS, head=HeadShape(width=9)).head(shapes)
    head = Classification(PETS, head=HeadShape(width=9, depth=3)).head(shapes)
    assert [tuple(value.shape) for value in head.state_dict().values() if value.ndim == 2] == [
        (9, 5),
        (9, 9),
        (3, 9),
    ]


def test_an_answer_is_shown_with_its_confidence_in_brackets() -> None:
    logits = torch.full((len(DIGITS),), 0.25 / 7).log()
    logits[7] = torch.tensor(0.75).log()
    shown = Classification(DIGITS).show_answer(logits, torch.zeros(3, 2, 2, dtype=torch.uint8))
    assert shown.caption == f"{DIGITS[7]} (75 %)"
