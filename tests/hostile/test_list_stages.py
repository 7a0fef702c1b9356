"""HRNet's stages give lists of maps: each is a feature, for dense students, teachers and hints."""

import copy
from pathlib import Path

import pytest
import timm
import torch
from timm.models import save_for_hf

from distill_mtl.errors import StudentError
from distill_mtl.networks.features import FeatureShape
from distill_mtl.recipe.schema import StudentSection, TeacherSection
from distill_mtl.students.initial_weights import build_student
from distill_mtl.students.student import Student
from distill_mtl.students.student_folder import load_student, save_student
from distill_mtl.tasks.base import build_kind
from distill_mtl.teachers.load_teacher import load_teacher

MODEL, SIZE = "hrnet_w18_small", 64
FINEST_FIRST = ("stage4[0]", "stage4[1]", "stage4[2]", "stage4[3]")
KIND = build_kind("segmentation", ["ground", "thing"])


@pytest.fixture(scope="module")
def student() -> Student:
    section = StudentSection(model=MODEL, input_size=SIZE, init="random")
    return build_student(section, {"part": KIND}, [None, "stage3[0]"], seed=0)


def test_a_dense_head_reads_the_last_map_of_every_size(student: Student) -> None:
    assert KIND.needs(student.trunk.shapes) == FINEST_FIRST
    sides = [student.trunk.shapes[name].size for name in FINEST_FIRST]
    assert sides == [(16, 16), (8, 8), (4, 4), (2, 2)]
    assert student.trunk.last == "stage4[3]"
    features = student.trunk(torch.rand(1, 3, SIZE, SIZE))
    assert features["stage3[0]"].shape == (1, 16, 16, 16), "a hint layer"


def test_it_trains_and_is_loaded_to_the_bit(student: Student, tmp_path: Path) -> None:
    subject = copy.deepcopy(student).train()
    before = {name: value.clone() for name, value in subject.named_parameters()}
    optimizer = torch.optim.SGD(subject.parameters(), lr=0.1)
    labels = torch.randint(2, (2, SIZE, SIZE))
    logits = subject(torch.rand(2, 3, SIZE, SIZE))["part"]
    KIND.supervised_loss(logits, labels).mean().backward()
    optimizer.step()
    moved = {name for name, value in subject.named_parameters() if not torch.equal(value, before[name])}
    for part in ("conv1", "stage2", "stage3", "stage4"):
        assert any(name.startswith(f"trunk.model.{part}") for name in moved), part

    save_student(subject.eval(), tmp_path / "s")
    loaded, images = load_student(tmp_path / "s"), torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        assert torch.equal(loaded(images)["part"]["logits"], subject(images)["part"])
    teacher = load_teacher(TeacherSection(path=str(tmp_path / "s")), task="part", layers=(None, "stage2[1]"))
    answer = teacher(images)
    assert answer.logits.shape == (2, 2, 16, 16)
    assert {name: tuple(hint.shape) for name, hint in answer.hidden.items()} == {
        "stage4[3]": (2, 128, 2, 2),
        "stage2[1]": (2, 32, 8, 8),
    }


def test_a_recorded_program_gives_the_same(student: Student) -> None:
    subject, images = copy.deepcopy(student).eval(), torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        program = torch.export.export(subject, (images,), strict=False)
        torch.testing.assert_close(program.module()(images)["part"], subject(images)["part"])


def test_a_classifier_of_timm_gives_hints(tmp_path: Path) -> None:
    network = timm.create_model(MODEL, num_classes=3)
    cfg = {key: network.pretrained_cfg[key] for key in ("mean", "std", "interpolation", "classifier")}
    cfg |= {"input_size": (3, SIZE, SIZE), "num_classes": 3}
    save_for_hf(network, str(tmp_path / "net"), model_config={"pretrained_cfg": cfg}, safe_serialization=True)
    teacher = load_teacher(TeacherSection(path=str(tmp_path / "net")), task="t", layers=(None, "stage4[0]"))
    hidden = teacher(torch.rand(2, 3, SIZE, SIZE)).hidden
    assert {name: tuple(hint.shape[1:]) for name, hint in hidden.items()} == {
        "stage4[3]": (128, 2, 2),
        "stage4[0]": (16, 16, 16),
    }
    assert teacher.network.features()["stage4[0]"] == FeatureShape(16, (16, 16))


@pytest.mark.parametrize("model", ["crossvit_tiny_240", "coat_tiny"])
def test_a_network_that_names_no_stages_is_refused_for_a_dense_task_by_its_name(model: str) -> None:
    section = StudentSection(model=model, init="random")
    with pytest.raises(StudentError, match=f"(?s)tasks.part: .*no maps.*Choose another.*{model}"):
        build_student(section, {"part": KIND}, [None], seed=0)
