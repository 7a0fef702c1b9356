import math
from dataclasses import replace

import pytest
import torch
import toys

from distill_mtl.balance import make_rule
from distill_mtl.data.batch import Batch
from distill_mtl.distillation.counts import count_rows
from distill_mtl.distillation.gate import Gate
from distill_mtl.distillation.hints import Hint
from distill_mtl.distillation.lesson import HintPair, Lesson
from distill_mtl.distillation.objective import Objective
from distill_mtl.teachers.output import Target, TeacherOutput

SURE, TORN, EVEN = [9.0, 0.0, 0.0], [4.0, 4.0, -9.0], [0.0, 0.0, 0.0]


def test_rows_of_a_teacher_that_guesses_are_shut_out() -> None:
    logits = torch.tensor([SURE, TORN, EVEN])
    assert Gate("entropy", 0.7).hears(logits).tolist() == [True, True, False]
    assert Gate("entropy", 0.5).hears(logits).tolist() == [True, False, False]
    assert Gate("confidence", 0.6).hears(logits).tolist() == [True, False, False]
    assert Gate("confidence", 0.4).hears(logits).tolist() == [True, True, False]


def test_entropy_is_a_share_of_that_of_an_even_guess() -> None:
    torn = math.log(2) / math.log(3)
    logits = torch.tensor([TORN])
    assert Gate("entropy", torn + 0.001).hears(logits).item()
    assert not Gate("entropy", torn - 0.001).hears(logits).item()
    assert Gate("entropy", 1.0).hears(torch.tensor([EVEN])).item()


def test_only_the_classes_that_the_teacher_knows_are_looked_at() -> None:
    of_two = torch.tensor([[0.0, 0.0, -1e4]])
    assert Gate("entropy", 0.9).hears(of_two).item()
    assert not Gate("entropy", 0.9, known=(0, 1)).hears(of_two).item()


def test_a_map_is_judged_by_the_mean_over_its_pixels() -> None:
    sure, even = torch.tensor(SURE), torch.tensor(EVEN)
    maps = torch.stack(
        [torch.stack([sure, sure, sure, even], 1), torch.stack([sure, even, even, even], 1)]
    ).view(2, 3, 2, 2)
    assert Gate("entropy", 0.5).hears(maps).tolist() == [True, False]


def test_a_row_that_is_not_heard_teaches_nothing_and_still_counts() -> None:
    objective, batch, target = _one_task()
    heard = torch.tensor([True, False, True, False])
    _, everything = _run(objective, batch, target)
    gradients, terms = _run(objective, batch, replace(target, heard=heard))
    half = Target(target.rows[heard], TeacherOutput(
        target.output.logits[heard], {"second": target.output.hidden["second"][heard]}
    ))  # fmt: skip
    expected, of_half = _run(objective, batch, half)
    for term in ("soft_targets", "hint"):
        # Over the four rows that were asked, not over the two that were heard.
        assert terms[term].item() == pytest.approx(of_half[term].item() / 2, rel=1e-5)
        assert terms[term] < everything[term]
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, expected[name] / 2, atol=1e-7), name


def _one_task() -> tuple[Objective, Batch, Target]:
    student = toys.toy_student({"a": toys.classification(3)})
    shape = student.trunk.shapes["second"]
    lesson = Lesson(hints=[HintPair("second", "second")])
    objective = Objective(student, {"a": lesson}, {"a": [Hint(shape, shape)]}, make_rule("uniform", ["a"]))
    images = torch.rand(4, 3, toys.SIZE, toys.SIZE)
    batch = Batch(
        images, {"a": torch.zeros(4).long()}, {"a": torch.zeros(4).bool()}, [""] * 4, torch.zeros(4).long()
    )
    hidden = torch.randn(4, shape.channels, *(shape.size or ()))
    return objective, batch, Target(torch.arange(4), TeacherOutput(torch.randn(4, 3), {"second": hidden}))


def _run(
    objective: Objective, batch: Batch, target: Target
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    objective.zero_grad()
    counts = count_rows([batch], [{"a": target.rows}], objective.lessons)
    losses, shared, terms = objective(batch.images, batch, {"a": target}, counts)
    objective.rule.backward(losses, shared)
    return {n: p.grad.clone() for n, p in objective.named_parameters() if p.grad is not None}, terms["a"]
