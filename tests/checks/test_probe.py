"""What a probe makes of a teacher's features, whatever its head says."""

from pathlib import Path

import torch
import toys
from torch import Tensor, nn

from distill_mtl.checks.probe import probe
from distill_mtl.data.batch import Batch
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.students.student_folder import save_student
from distill_mtl.teachers.load_teacher import load_teacher
from distill_mtl.teachers.teacher import Teacher


def batches(images: Tensor, labels: Tensor, rows: int = 40) -> list[Batch]:
    """Of one task, `t`."""
    keys = [str(row) for row in range(len(images))]
    known, source = torch.ones(rows, dtype=torch.bool), torch.zeros(rows, dtype=torch.int64)
    return [
        Batch(
            images[at : at + rows], {"t": labels[at : at + rows]}, {"t": known}, keys[at : at + rows], source
        )
        for at in range(0, len(images), rows)
    ]


def teacher(folder: Path, kind: object, blind: bool) -> Teacher:
    """With a random head; its trunk is random too, which is enough for bright and dark, or blind."""
    student = toys.toy_student({"t": kind})
    for module in student.trunk.modules() if blind else ():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
    save_student(student, folder)
    return load_teacher(TeacherSection(path=str(folder)), task="t")


def test_features_that_know_a_class_per_picture_are_told_from_those_that_do_not(tmp_path: Path) -> None:
    labels = torch.arange(160) % 2
    images = torch.rand(160, 3, 8, 8) * 0.4 + labels[:, None, None, None] * 0.5
    for blind in (False, True):
        found = probe(
            teacher(tmp_path / str(blind), toys.classification(2), blind),
            toys.classification(2),
            "t",
            batches(images, labels),
        )
        assert found is not None
        assert 50 <= found.constant < 65
        assert (found.score > 95) != blind


def test_features_that_know_a_class_per_pixel_are_told_from_those_that_do_not(tmp_path: Path) -> None:
    halves = torch.zeros(80, 8, 8, dtype=torch.int64)
    halves[::2, :, 4:], halves[1::2, 4:] = 1, 1
    images = torch.rand(80, 3, 8, 8) * 0.3 + halves[:, None] * 0.5
    halves[0] = 255  # a row without a label counts nowhere
    for blind in (False, True):
        found = probe(
            teacher(tmp_path / str(blind), toys.segmentation(2), blind),
            toys.segmentation(2),
            "t",
            batches(images, halves),
        )
        assert found is not None
        assert (found.score > 70) != blind, found


def test_rare_classes_are_left_out_and_too_few_rows_say_nothing(tmp_path: Path) -> None:
    kind = toys.classification(3)
    subject = teacher(tmp_path, kind, blind=False)
    labels = torch.arange(160) % 2
    labels[5] = 2
    images = torch.rand(160, 3, 8, 8) * 0.4 + labels[:, None, None, None] * 0.3
    assert probe(subject, kind, "t", batches(images, labels)) is not None
    assert probe(subject, kind, "t", batches(images[:8], labels[:8], rows=8)) is None


def test_a_probe_leaves_the_teacher_as_it_was(tmp_path: Path) -> None:
    save_student(toys.toy_student({"t": toys.classification(2)}), tmp_path / "t")
    subject = load_teacher(TeacherSection(path=str(tmp_path / "t")), task="t", layers=("first",))
    labels, images = torch.arange(80) % 2, torch.rand(80, 3, 8, 8)
    before = subject(images)
    probe(subject, toys.classification(2), "t", batches(images, labels))
    after = subject(images)
    assert torch.equal(after.logits, before.logits)
    assert torch.equal(after.hidden["first"], before.hidden["first"])
