from dataclasses import replace

import pytest
import torch
import toys

from distill_mtl.balance import make_rule
from distill_mtl.data.batch import Batch
from distill_mtl.distillation.counts import count_rows
from distill_mtl.distillation.objective import Objective
from distill_mtl.distillation.term import HintPair, LossConfig, build_terms
from distill_mtl.teachers.teacher import Target, TeacherOutput


def test_a_masked_row_teaches_nothing_and_still_counts() -> None:
    objective, batch, target = _one_task()
    masked = torch.tensor([False, True, False, True])
    _, everything = _run(objective, batch, target)
    gradients, terms = _run(objective, batch, replace(target, masked=masked))
    half = Target(target.rows[~masked], TeacherOutput(
        target.output.logits[~masked], {"second": target.output.hidden["second"][~masked]}
    ))  # fmt: skip
    expected, of_half = _run(objective, batch, half)
    for term in ("soft_targets", "hint"):
        # Over the four rows with a target, not over the two that are not masked.
        assert terms[term].item() == pytest.approx(of_half[term].item() / 2, rel=1e-5)
        assert terms[term] < everything[term]
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, expected[name] / 2, atol=1e-7), name


def test_a_weight_scales_what_a_row_teaches() -> None:
    objective, batch, target = _one_task()
    _, everything = _run(objective, batch, target)
    _, halved = _run(objective, batch, replace(target, weights=torch.full((4,), 0.5)))
    _, none = _run(objective, batch, replace(target, weights=torch.zeros(4)))
    for term in ("soft_targets", "hint"):
        assert halved[term].item() == pytest.approx(everything[term].item() / 2, rel=1e-5)
        assert none[term] == 0


def _one_task() -> tuple[Objective, Batch, Target]:
    student = toys.toy_student({"a": toys.classification(3)})
    shape = student.trunk.shapes["second"]
    loss_config = LossConfig(hints=[HintPair("second", "second")])
    configs = {"a": loss_config}
    terms = build_terms(configs, student.trunk.shapes, {"a": {"second": shape}})
    objective = Objective(student, configs, terms, make_rule("uniform", ["a"]))
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
    counts = count_rows([batch], [{"a": target.rows}], objective.loss_configs)
    losses, shared, terms = objective(batch.images, batch, {"a": target}, counts)
    objective.rule.backward(losses, shared)
    return {n: p.grad.clone() for n, p in objective.named_parameters() if p.grad is not None}, terms["a"]
