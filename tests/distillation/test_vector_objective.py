"""Attributes and numbers through the objective: what is unknown says nothing, however a batch is split."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import toys
from torch import Tensor

from distill_mtl.balance import make_rule
from distill_mtl.data.batch import Batch
from distill_mtl.distillation.counts import count_rows
from distill_mtl.distillation.objective import Objective
from distill_mtl.distillation.term import LossConfig, build_terms
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.targets.live import LiveTeachers
from distill_mtl.tasks.base import TaskKind, build_kind
from distill_mtl.teachers.load_teacher import load_teacher

ROWS = 8
LABELLED = torch.tensor([1, 1, 0, 1, 0, 0, 1, 0]).bool()


def kinds() -> dict[str, TaskKind]:
    return {
        "looks": build_kind("multilabel", ["a", "b", "c"]),
        "light": build_kind("regression", ["x", "y"], scale=[1, 5], bounded=0.0),
    }


def merged(folder: Path, known: tuple[int, ...] | None = None) -> tuple[Objective, LiveTeachers]:
    student, teachers = toys.toy_student(kinds()), {}
    for number, (task, kind) in enumerate(kinds().items()):
        toys.toy_teacher_folder(folder / task, task, kind, seed=number + 1)
        teachers[task] = load_teacher(TeacherSection(path=str(folder / task)), task=task)
    loss_configs = {"looks": LossConfig(), "light": LossConfig()}
    objective = Objective(
        student, loss_configs, build_terms(loss_configs, {}, {}), make_rule("uniform", list(loss_configs))
    )
    live = LiveTeachers(teachers, "all")
    live.known["looks"] = known
    return objective, live


def batch() -> Batch:
    generator = torch.Generator().manual_seed(5)
    labels = {
        "looks": torch.randint(-1, 2, (ROWS, 3), generator=generator),
        "light": torch.randn(ROWS, 2, generator=generator),
    }
    labels["light"][0, 1] = labels["light"][6, 0] = torch.nan
    for task, kind in kinds().items():
        labels[task][~LABELLED] = kind.filler((toys.SIZE, toys.SIZE))
    return Batch(
        images=torch.rand(ROWS, 3, toys.SIZE, toys.SIZE, generator=generator),
        labels=labels,
        labelled=dict.fromkeys(labels, LABELLED),
        keys=[str(row) for row in range(ROWS)],
        source=torch.zeros(ROWS, dtype=torch.int64),
    )


def rows(whole: Batch, part: slice) -> Batch:
    return replace(
        whole,
        images=whole.images[part],
        labels={task: label[part] for task, label in whole.labels.items()},
        labelled={task: mask[part] for task, mask in whole.labelled.items()},
        keys=whole.keys[part],
        source=whole.source[part],
    )


def gradients(objective: Objective, teachers: LiveTeachers, batches: list[Batch]) -> dict[str, Tensor]:
    """Of a step over micro-batches, averaged over them as Accelerate does."""
    objective.zero_grad()
    counts = count_rows(batches, [teachers.rows(each) for each in batches], objective.loss_configs)
    for micro, each in enumerate(batches):
        losses, shared, _ = objective(each.images, each, teachers(each), counts, micro)
        objective.rule.backward(losses, shared, backward=lambda loss: (loss / len(batches)).backward())
    return {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("cut", [1, 4, 7])
def test_gradients_do_not_depend_on_how_the_batch_is_split(tmp_path: Path, cut: int) -> None:
    objective, teachers = merged(tmp_path)
    whole = gradients(objective, teachers, [batch()])
    split = gradients(objective, teachers, [rows(batch(), slice(cut)), rows(batch(), slice(cut, None))])
    assert all(torch.isfinite(gradient).all() for gradient in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(split[name], gradient, atol=1e-6, rtol=1e-4)


def test_what_stands_in_rows_without_a_label_changes_nothing(tmp_path: Path) -> None:
    objective, teachers = merged(tmp_path)
    before, other = gradients(objective, teachers, [batch()]), batch()
    other.labels["looks"][~LABELLED] = 1
    other.labels["light"][~LABELLED] = 7.0
    for name, gradient in gradients(objective, teachers, [other]).items():
        assert torch.equal(gradient, before[name])


def test_a_teacher_says_nothing_about_attributes_that_it_does_not_know(tmp_path: Path) -> None:
    objective, teachers = merged(tmp_path, known=(0, 2))
    unlabelled = batch()
    unlabelled.labelled["looks"] = torch.zeros(ROWS, dtype=torch.bool)
    found = gradients(objective, teachers, [unlabelled])
    weight = found["student.heads.looks.linear.weight"]
    assert weight[1].abs().sum() == 0
    assert (weight[[0, 2]].abs().sum(1) > 0).all()
