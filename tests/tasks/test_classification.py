"""Classification: labels on disk, scores, answers."""

import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy

from distill_mtl.errors import UserError
from distill_mtl.networks.features import FeatureShape
from distill_mtl.tasks.classification import Classification
from distill_mtl.tasks.pooled import PooledHead

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
    with pytest.raises(ValueError, match="neither a class number from 0 to 2 nor one of the class names"):
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
