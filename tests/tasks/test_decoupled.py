"""Decoupled distillation: the paper's identity, its floor, whose class is set apart."""

import pytest
import torch
from torch import Tensor

from distill_mtl.errors import UserError
from distill_mtl.tasks.base import Truth
from distill_mtl.tasks.classification import Classification
from distill_mtl.tasks.losses import Decoupled, soft_divergence

CLASSES = ("a", "b", "c", "d")


def example(rows: int = 7, classes: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of student and teacher, and targets."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = 3 * torch.randn(2, rows, classes, generator=generator)
    return student, teacher, torch.randint(classes, (rows,), generator=generator)


def test_the_plain_divergence_is_its_sum_with_the_papers_weights() -> None:
    """Zhao et al. 2022, equation 6: KD = TCKD + (1 - p of the teacher's target) NCKD."""
    student, teacher, target = example()
    for temperature in (1.0, 4.0):
        tckd = Decoupled(alpha=1, beta=0)(student, teacher, target, temperature)
        nckd = Decoupled(alpha=0, beta=1)(student, teacher, target, temperature)
        p = (teacher / temperature).softmax(1).gather(1, target[:, None])[:, 0]
        torch.testing.assert_close(tckd + (1 - p) * nckd, soft_divergence(student, teacher, temperature))


def test_both_parts_by_hand() -> None:
    """Three classes at T = 1: shares 1/2, 1/4, 1/4 of the student, 1/2, 1/3, 1/6 of the teacher; target 0."""
    student = torch.tensor([[2.0, 1.0, 1.0]]).log()
    teacher = torch.tensor([[3.0, 2.0, 1.0]]).log()
    target = torch.tensor([0])
    assert Decoupled(1, 0)(student, teacher, target, 1.0).item() == pytest.approx(0, abs=1e-6)
    others = torch.tensor([2 / 3, 1 / 3])
    nckd = (others * (others / 0.5).log()).sum()
    torch.testing.assert_close(Decoupled(5, 8)(student, teacher, target, 1.0), 8 * nckd[None])


def test_it_costs_nothing_where_both_agree_and_never_less() -> None:
    student, _, target = example()
    loss = Decoupled()
    assert torch.equal(loss(student, student.clone(), target, 4.0), torch.zeros(7))
    nearly = loss(student, student + 1e-5 * torch.randn(7, 4), target, 1.0)
    assert (nearly >= 0).all()
    assert loss(student, student + 5, target, 4.0).max() < 1e-4


def test_very_sure_networks_stay_finite_and_have_a_gradient() -> None:
    student = torch.tensor([[200.0, 0, 0, 0], [0, 0, 0, 200.0]], requires_grad=True)
    teacher = torch.tensor([[0, 200.0, 0, -200], [300.0, 0, 0, 0]], requires_grad=True)
    loss = Decoupled()(student, teacher, torch.tensor([0, 3]), 1.0)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_rows_do_not_see_each_other() -> None:
    student, teacher, target = example()
    whole = Decoupled()(student, teacher, target, 4.0)
    parts = [
        Decoupled()(student[rows], teacher[rows], target[rows], 4.0) for rows in ([0, 1, 2], [3], [4, 5, 6])
    ]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_two_classes_have_no_others_to_tell_apart_and_one_nothing_at_all() -> None:
    student, teacher, target = example(classes=2)
    both = Decoupled(1, 100)(student, teacher, target, 2.0)
    torch.testing.assert_close(both, soft_divergence(student, teacher, 2.0))
    single = Decoupled()(student[:, :1], teacher[:, :1], torch.zeros(7, dtype=torch.long), 2.0)
    assert torch.equal(single, torch.zeros(7))


def test_the_label_is_set_apart_where_there_is_one_and_else_the_teachers_own_answer() -> None:
    student, teacher, target = example()
    kind = Classification(CLASSES, dkd={"alpha": 0.5, "beta": 3})
    labelled = torch.tensor([True, False, True, True, False, False, True])
    own = teacher.argmax(1)
    assert (own != target)[labelled].any()
    expected = Decoupled(0.5, 3)
    assert torch.equal(
        kind.soft_target_loss(student, teacher, 4.0, Truth(target, labelled)),
        expected(student, teacher, torch.where(labelled, target, own), 4.0),
    )
    assert torch.equal(kind.soft_target_loss(student, teacher, 4.0), expected(student, teacher, own, 4.0))


def test_half_precision_is_computed_in_float32() -> None:
    student, teacher, target = (
        value.bfloat16() if value.is_floating_point() else value for value in example()
    )
    got = Decoupled()(student, teacher, target, 4.0)
    assert got.dtype == torch.float32
    assert torch.equal(got, Decoupled()(student.float(), teacher.float(), target, 4.0))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (True, r"options\.dkd.*mapping"),
        ({"gamma": 1}, r"options\.dkd.*mapping"),
        ({"alpha": -1}, r"options\.dkd\.alpha.*found -1"),
        ({"beta": "8"}, r"options\.dkd\.beta.*found '8'"),
    ],
)
def test_weights_that_make_no_sense_are_refused(said: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Classification(CLASSES, dkd=said)  # type: ignore[arg-type]


def test_an_empty_mapping_takes_the_papers_weights() -> None:
    assert Classification(CLASSES, dkd={}).dkd == Decoupled(alpha=1, beta=8)
