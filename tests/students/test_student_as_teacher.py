from pathlib import Path

import pytest
import torch
from student_toys import apart, kinds, student, three_kinds

from distill_mtl.errors import TeacherError
from distill_mtl.networks.opening import open_network
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.students.student_folder import save_student
from distill_mtl.teachers.load_teacher import load_teacher
from distill_mtl.teachers.shared_trunks import JoinedTeachers, share_trunks


def test_a_head_of_a_student_folder_teaches_its_task(tmp_path: Path) -> None:
    subject, images = student(), torch.rand(2, 3, 50, 40)
    save_student(subject, tmp_path)
    expected = subject(images)
    for task, kind in kinds().items():
        teacher = load_teacher(TeacherSection(path=str(tmp_path)), task=task, kind=kind.name, layers=[None])
        answer = teacher(images)
        assert torch.equal(answer.logits, expected[task])
        assert answer.hidden["layer4"].shape == (2, 96, 2, 2)
        assert teacher.card.classes == kind.classes
        assert not any(parameter.requires_grad for parameter in teacher.parameters())


SHAPES = {
    "branch": {"branch": {"a": "layer3"}},
    "private": {"private": {"norms": ["layer3"]}},
    "adapters": {"private": {"adapters": ["layer3"]}},
    "encoders": {"encoders": {"one": ["a"], "other": ["b", "c"]}},
    "columns": {"columns": {"kind": "cross_stitch"}},
    "order": {"model": "test_vit", "order": "soft"},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_task_of_a_student_in_parts_answers_by_its_own_path_beside_the_others(
    tmp_path: Path, shape: str
) -> None:
    subject = apart(student(tasks=three_kinds(), **SHAPES[shape]))
    save_student(subject, tmp_path)
    pictures = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    images = pictures.float() / 255
    with torch.no_grad():
        expected = subject(images)

    together = open_network(TeacherSection(path=str(tmp_path))).logits(list(pictures), list(expected))
    teachers = {task: load_teacher(TeacherSection(path=str(tmp_path)), task=task) for task in expected}
    share_trunks(teachers.values())
    taught = JoinedTeachers(teachers)(images)
    for task, logits in expected.items():
        torch.testing.assert_close(torch.stack(together[task]), logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(taught[task], logits, rtol=1e-4, atol=1e-5)
    assert len({id(teacher.network.trunk) for teacher in teachers.values()}) == len(expected)


def test_a_teacher_of_one_task_runs_no_other_head(tmp_path: Path) -> None:
    save_student(student(), tmp_path)
    teacher = load_teacher(TeacherSection(path=str(tmp_path)), task="left")
    assert teacher.network.backbone.returns == ("pooled",)
    assert {name.split(".")[1] for name, _ in teacher.named_parameters()} == {"backbone", "head"}
    assert sum(p.numel() for p in teacher.network.head.parameters()) == 96 * 3 + 3


def test_a_head_can_be_asked_for_by_name(tmp_path: Path) -> None:
    save_student(student(), tmp_path)
    assert (
        load_teacher(TeacherSection(path=str(tmp_path), task="part"), task="road").card.kind == "segmentation"
    )


def test_the_only_head_needs_no_name(tmp_path: Path) -> None:
    save_student(student(tasks={"part": kinds()["part"]}), tmp_path)
    assert load_teacher(TeacherSection(path=str(tmp_path)), task="road").card.kind == "segmentation"


@pytest.mark.parametrize("head", [None, "parts"])
def test_a_head_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path, head: str | None) -> None:
    save_student(student(), tmp_path)
    with pytest.raises(TeacherError, match=f"{tmp_path}.*left, part"):
        load_teacher(TeacherSection(path=str(tmp_path), task=head), task="road")


def test_numbered_classes_may_be_named_by_the_recipe(tmp_path: Path) -> None:
    from distill_mtl.tasks.base import build_kind

    save_student(student(tasks={"left": build_kind("classification", ["0", "1"])}), tmp_path)
    section = TeacherSection(path=str(tmp_path))
    assert load_teacher(section, task="left", classes=("cat", "dog")).card.classes == ("cat", "dog")
    assert load_teacher(section, task="left").card.classes == ("0", "1")


def test_a_broken_student_folder_is_a_teachers_error(tmp_path: Path) -> None:
    save_student(student(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(TeacherError, match=r"tasks\.left\.teacher: .*model\.safetensors does not exist"):
        load_teacher(TeacherSection(path=str(tmp_path)), task="left")
