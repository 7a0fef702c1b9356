"""What the check makes of a teacher's score."""

from pathlib import Path

import colors
import pytest
import torch

from distill_mtl.errors import TeacherError
from distill_mtl.students.student_folder import load_student, save_student


def test_a_healthy_teacher_passes(world: Path) -> None:
    assert colors.check(world, str(world / "teacher")) > 97


def test_a_healthy_teacher_without_a_recorded_score_passes(world: Path, tmp_path: Path) -> None:
    folder = colors.copy_of(world / "teacher", tmp_path / "t", lambda copy: (copy / "score.json").unlink())
    assert colors.check(world, str(folder)) > 97


def blind(folder: Path) -> None:
    """A head that says the same whatever it sees."""
    student, score = load_student(folder).student, (folder / "score.json").read_text()
    for parameter in student.heads.parameters():
        torch.nn.init.zeros_(parameter)
    save_student(student, folder)
    (folder / "score.json").write_text(score)


def test_without_a_recorded_score_a_teacher_near_a_constant_answer_is_refused(
    world: Path, tmp_path: Path
) -> None:
    folder = colors.copy_of(world / "teacher", tmp_path / "t", blind)
    (folder / "score.json").unlink()
    with pytest.raises(TeacherError, match=r"scores .*constant answer \("):
        colors.check(world, str(folder))


def test_the_recipe_overrides_the_recorded_score(world: Path, tmp_path: Path) -> None:
    folder = colors.copy_of(world / "teacher", tmp_path / "t", blind)
    with pytest.raises(TeacherError, match=r"99\.00.*`expect: 1\d\.\d`"):
        colors.check(world, colors.line(folder))
    assert colors.check(world, colors.line(folder, expect=15.0)) < 25


def test_a_refusal_names_task_file_score_and_rows(world: Path, tmp_path: Path) -> None:
    folder = colors.copy_of(world / "teacher", tmp_path / "t", blind)
    with pytest.raises(TeacherError) as caught:
        colors.check(world, str(folder))
    message = str(caught.value)
    assert message.startswith(f"tasks.color.teacher: {folder}/model.safetensors ")
    for finding in ("accuracy", "400", "99.00"):
        assert finding in message
    assert "\n" not in message
