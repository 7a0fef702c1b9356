from itertools import pairwise

import pytest
import torch
import toys
from torch import nn

from distill_mtl.data.batch import Batch
from distill_mtl.distillation.stages import Stage
from distill_mtl.distillation.term import LossConfig
from distill_mtl.students.student import Student
from distill_mtl.targets.combined import Gate, TargetProviders
from distill_mtl.targets.live import LiveTeachers
from distill_mtl.targets.self_teacher import SelfTeacher

KINDS = {"a": toys.classification(3), "b": toys.segmentation(2)}


def test_it_has_no_target_until_it_was_frozen_and_then_answers_as_the_student_did() -> None:
    student = toys.toy_student(KINDS)
    teacher, batch = SelfTeacher(student, ["a", "b"], lambda step: step % 2 == 0), _batch()
    for step in (0, 1):
        teacher.begin(step, student)
        assert teacher.rows(batch) == {}
    _move(student)
    answered = student.eval()(batch.images)
    teacher.begin(2, student)
    _move(student)
    teacher.begin(3, student)
    assert {task: rows.tolist() for task, rows in teacher.rows(batch).items()} == {"a": [1, 2], "b": [0, 1]}
    answers = teacher.ask(batch.images, teacher.rows(batch))
    assert torch.equal(answers["a"].output.logits, answered["a"][[1, 2]])
    assert torch.allclose(answers["b"].output.logits, answered["b"][[0, 1]], atol=1e-6)
    assert answers["a"].output.hidden == {}
    teacher.begin(4, student)
    assert not torch.equal(
        teacher.ask(batch.images, teacher.rows(batch))["a"].output.logits, answered["a"][[1, 2]]
    )


def test_it_keeps_the_running_statistics_and_never_moves_its_own() -> None:
    student = toys.toy_student(KINDS)
    student.trunk.model.first.append(nn.BatchNorm2d(6))
    teacher, batch = SelfTeacher(student, ["a"], lambda step: True), _batch()
    student.train()(batch.images)
    teacher.begin(1, student)
    before = teacher.state_dict()["copy"]
    frozen = {name: value.clone() for name, value in before.items()}
    assert torch.equal(frozen["trunk.model.first.2.running_mean"], student.trunk.model.first[2].running_mean)
    teacher.ask(batch.images, teacher.rows(batch))
    student(batch.images)
    assert all(torch.equal(value, frozen[name]) for name, value in teacher.state_dict()["copy"].items())


def test_tasks_share_one_pass_through_the_trunk() -> None:
    student = toys.toy_student(KINDS)
    runs: list[int] = []
    student.trunk.register_forward_hook(lambda *_: runs.append(1))  # a copy has it too
    teacher = SelfTeacher(student, ["a", "b"], lambda step: True)
    teacher.begin(1, student)
    runs.clear()
    answers = teacher.ask(_batch().images, teacher.rows(_batch()))
    assert runs == [1]
    assert not any(target.output.logits.requires_grad for target in answers.values())


def test_an_average_moves_before_every_step_and_teaches_from_the_first_moment_on() -> None:
    student = toys.toy_student(KINDS)
    teacher, batch = SelfTeacher(student, ["a"], lambda step: step == 3, decay=0.5), _batch()
    weights = []
    for step in range(5):
        teacher.begin(step, student)
        assert bool(teacher.rows(batch)) == (step >= 3)
        weights.append(teacher.state_dict()["copy"]["heads.a.linear.weight"].clone())
        _move(student)
    now = student.state_dict()["heads.a.linear.weight"]
    assert all(not torch.equal(earlier, later) for earlier, later in pairwise(weights[1:]))
    assert not torch.equal(weights[-1], now)


@pytest.mark.parametrize("decay", [None, 0.5])
def test_it_goes_on_from_a_checkpoint(decay: float | None) -> None:
    student = toys.toy_student(KINDS)
    teacher, again = (SelfTeacher(student, ["a"], lambda step: step == 2, decay=decay) for _ in range(2))
    for step in range(4):
        teacher.begin(step, student)
        _move(student)
    again.load_state_dict(teacher.state_dict())
    for subject in (teacher, again):
        subject.begin(4, student)
    batch = _batch()
    one, other = (subject.ask(batch.images, subject.rows(batch)) for subject in (teacher, again))
    assert torch.equal(one["a"].output.logits, other["a"].output.logits)


def test_with_labels_alone_it_has_no_target() -> None:
    student = toys.toy_student(KINDS)
    teacher = SelfTeacher(student, ["a"], lambda step: True, on="none")
    teacher.begin(1, student)
    assert teacher.rows(_batch()) == {}


def test_only_tasks_that_use_a_teacher_get_targets_and_a_gate_masks_them() -> None:
    student = toys.toy_student(KINDS)
    teacher = SelfTeacher(student, ["a", "b"], lambda step: True)
    teacher.begin(1, student)
    providers = TargetProviders(LiveTeachers({}), [teacher], {"b": Gate("entropy", 0.0)})
    without = LossConfig({"soft_targets": 0})
    rows = providers.rows(_batch(), Stage(1, {"a": without, "b": LossConfig()}).taught)
    assert list(rows) == ["b"]
    targets = providers(_batch(), rows)
    assert targets["b"].masked is not None
    assert targets["b"].masked.all()


def _move(student: Student) -> None:
    for parameter in student.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)


def _batch() -> Batch:
    images = torch.rand(3, 3, toys.SIZE, toys.SIZE, generator=torch.Generator().manual_seed(0))
    labelled = {"a": torch.tensor([True, False, False]), "b": torch.tensor([False, False, True])}
    return Batch(images, {}, labelled, ["0", "1", "2"], torch.zeros(3, dtype=torch.int64))
