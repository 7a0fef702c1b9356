"""A glance at other layers of a teacher leaves it, and those that share its trunk, as they were."""

from pathlib import Path

import torch
import toys

from distill_mtl.networks.inputs import InputContract
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.students.student_folder import save_student
from distill_mtl.teachers.load_teacher import load_teacher
from distill_mtl.teachers.shared_trunks import share_trunks
from distill_mtl.teachers.teacher import Teacher


def test_layers_for_a_block_leave_teachers_of_one_trunk_as_they_were(tmp_path: Path) -> None:
    save_student(
        toys.toy_student({"hue": toys.classification(), "shape": toys.segmentation()}), tmp_path / "t"
    )
    section = TeacherSection(path=str(tmp_path / "t"))
    hue = load_teacher(section, task="hue", layers=("second",))
    shape = load_teacher(section, task="shape", layers=("first",))
    share_trunks([hue, shape])
    images = torch.rand(2, 3, 8, 8)
    before = hue(images), shape(images)
    with hue.network.tapping(hue.network.answer_features):
        assert set(hue.raw(images)) == {"logits", "pooled"}
        assert torch.equal(shape(images).logits, before[1].logits)
    for teacher, answer in zip((hue, shape), before, strict=True):
        again = teacher(images)
        assert torch.equal(again.logits, answer.logits)
        assert {name: feature.shape for name, feature in again.hidden.items()} == {
            name: feature.shape for name, feature in answer.hidden.items()
        }


def test_another_reading_leaves_no_hooks_on_the_network_that_it_shares(tmp_path: Path) -> None:
    save_student(toys.toy_student({"shape": toys.segmentation()}), tmp_path / "t")
    teacher = load_teacher(TeacherSection(path=str(tmp_path / "t")), task="shape")
    before = _hooks(teacher)
    reading = teacher.with_inputs(InputContract((8, 8), (0.0,) * 3, (1.0,) * 3))
    assert _hooks(teacher) > before
    del reading
    assert _hooks(teacher) == before


def _hooks(teacher: Teacher) -> int:
    return sum(len(module._forward_hooks) for module in teacher.modules())
