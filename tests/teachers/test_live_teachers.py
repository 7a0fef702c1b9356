from pathlib import Path

import pytest
import torch
import toys

from distill_mtl.data.batch import Batch
from distill_mtl.errors import TeacherError
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.students.student_folder import save_student
from distill_mtl.targets.live import LiveTeachers
from distill_mtl.teachers.load_teacher import load_teacher
from distill_mtl.teachers.shared_trunks import share_trunks
from distill_mtl.teachers.teacher import Teacher

KINDS = {"hue": toys.classification(3), "part": toys.segmentation(2)}


def folder(path: Path) -> Path:
    """One student folder with a head for each of two tasks."""
    student = toys.toy_student(KINDS)
    student.tap(())
    save_student(student, path)
    return path


def teachers(path: Path, **section: object) -> dict[str, Teacher]:
    return {
        task: load_teacher(TeacherSection(path=str(path), **section), task=task, layers=layers)
        for task, layers in (("hue", [None]), ("part", ["first"]))
    }


def batch(labelled: dict[str, list[bool]]) -> Batch:
    rows = len(next(iter(labelled.values())))
    images = torch.rand(rows, 3, toys.SIZE, toys.SIZE, generator=torch.Generator().manual_seed(0))
    flags = {task: torch.tensor(flag) for task, flag in labelled.items()}
    return Batch(images, {}, flags, [str(row) for row in range(rows)], torch.zeros(rows, dtype=torch.int64))


MIXED = {"hue": [True, False, False, True, True], "part": [False, False, True, True, False]}


@pytest.mark.parametrize("labelled", [MIXED, {"hue": [True] * 3, "part": [False] * 3}])
def test_teachers_of_one_file_run_its_trunk_once_and_answer_alike(
    tmp_path: Path, labelled: dict[str, list[bool]]
) -> None:
    alone, shared = teachers(folder(tmp_path)), teachers(tmp_path)
    share_trunks(shared.values())
    assert shared["hue"].network.trunk is shared["part"].network.trunk
    runs = []
    shared["hue"].network.trunk.register_forward_hook(lambda *_: runs.append(1))
    rows = batch(labelled)
    expected, found = LiveTeachers(alone)(rows), LiveTeachers(shared)(rows)
    assert len(runs) == 1
    assert list(found) == list(expected)
    for task, target in expected.items():
        assert torch.equal(found[task].rows, target.rows)
        assert torch.allclose(found[task].output.logits, target.output.logits, atol=1e-6)
        assert list(found[task].output.hidden) == list(target.output.hidden)
        for layer, feature in target.output.hidden.items():
            assert torch.allclose(found[task].output.hidden[layer], feature, atol=1e-6)


def test_teachers_of_different_files_keep_their_trunks(tmp_path: Path) -> None:
    one, other = teachers(folder(tmp_path / "a")), teachers(tmp_path / "a")
    student = toys.toy_student(KINDS, seed=9)
    student.tap(())
    save_student(student, tmp_path / "b")
    mixed = {"hue": one["hue"], "part": teachers(tmp_path / "b")["part"]}
    share_trunks(mixed.values())
    assert mixed["hue"].network.trunk is not mixed["part"].network.trunk
    narrow = {"hue": other["hue"], "part": teachers(tmp_path / "a", input={"channels": "bgr"})["part"]}
    share_trunks(narrow.values())
    assert narrow["hue"].network.trunk is not narrow["part"].network.trunk


def test_targets_in_bf16_are_close_and_come_without_autocast_around(tmp_path: Path) -> None:
    asked, rows = teachers(folder(tmp_path)), batch(MIXED)
    exact = LiveTeachers(asked)(rows)
    low = LiveTeachers(asked, precisions={"hue": "bf16", "part": "bf16"})(rows)
    for task in exact:
        difference = (exact[task].output.logits - low[task].output.logits.float()).abs().max()
        assert 0 < difference < 0.1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = LiveTeachers(asked)(rows)
    assert torch.equal(again["hue"].output.logits, exact["hue"].output.logits)


def test_weights_that_are_rounded_once_answer_as_under_autocast_and_stay_exact(tmp_path: Path) -> None:
    asked, rows = teachers(folder(tmp_path)), batch(MIXED)
    before = {name: weight.clone() for name, weight in asked["hue"].state_dict().items()}
    live = LiveTeachers(asked, "all", precisions={"hue": "bf16", "part": "bf16"})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = asked["hue"](rows.images)
    for _ in range(2):
        found = live(rows)["hue"].output
        assert torch.equal(found.logits, expected.logits)
        assert all(torch.equal(found.hidden[layer], value) for layer, value in expected.hidden.items())
    after = asked["hue"].state_dict()
    assert all(
        value.dtype == after[name].dtype and torch.equal(value, after[name]) for name, value in before.items()
    )


def test_a_compiled_teacher_answers_alike_whatever_the_number_of_rows(tmp_path: Path) -> None:
    torch.compiler.reset()
    asked = teachers(folder(tmp_path))
    with torch.compiler.set_stance("force_eager"):
        compiled = LiveTeachers(asked, compiled=frozenset(asked))
        for flags in (MIXED, {"hue": [False] * 4, "part": [False] * 4}):
            found, expected = compiled(batch(flags)), LiveTeachers(asked)(batch(flags))
            assert torch.allclose(found["hue"].output.logits, expected["hue"].output.logits, atol=1e-6)


def test_a_teacher_with_a_home_stays_there_and_answers_where_it_was_asked(tmp_path: Path) -> None:
    subject = teachers(folder(tmp_path), device="cpu")["hue"]
    moved = subject.to("meta")
    assert next(moved.parameters()).device.type == "cpu"
    assert moved(torch.rand(2, 3, toys.SIZE, toys.SIZE)).logits.device.type == "cpu"


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="device: cuda:7 cannot be used here"):
        teachers(folder(tmp_path), device="cuda:7")
