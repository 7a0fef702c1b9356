import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from student_toys import student

from distill_mtl.errors import StudentError
from distill_mtl.students.student_folder import load_student, save_student


@pytest.mark.parametrize("model", ["test_resnet", "test_vit", "test_mambaout"])
def test_a_student_is_loaded_as_it_was_saved(tmp_path: Path, model: str) -> None:
    subject, images = student(model), torch.rand(2, 3, 50, 70)
    save_student(subject, tmp_path / "s")
    loaded = load_student(tmp_path / "s")
    assert not any(module.training for module in loaded.modules())
    with torch.no_grad():
        expected, answers = subject(images), loaded(images)
    assert all(torch.equal(answers[task]["logits"], expected[task]) for task in expected)


def test_answers_are_decoded_and_dense_ones_have_the_images_size(tmp_path: Path) -> None:
    save_student(student(), tmp_path / "s")
    loaded = load_student(tmp_path / "s")
    answers = loaded(torch.rand(2, 3, 50, 70))
    assert torch.allclose(answers["left"]["probabilities"].sum(1), torch.ones(2))
    assert answers["part"]["label"].shape == (2, 50, 70)
    assert loaded.classes == {"left": ("a", "b", "c"), "part": ("ground", "thing")}


def test_arguments_of_the_architecture_survive(tmp_path: Path) -> None:
    subject = student(args={"norm_layer": "groupnorm1", "channels": [16, 24, 32, 40], "in_chans": 1})
    save_student(subject, tmp_path / "s")
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(load_student(tmp_path / "s")(images)["left"]["logits"], subject(images)["left"])


def test_hint_layers_are_not_kept(tmp_path: Path) -> None:
    subject = student()
    subject.tap(["layer3.0.conv2"])
    save_student(subject, tmp_path / "s")
    assert "layer3.0.conv2" not in load_student(tmp_path / "s").student.trunk.returns


def test_the_folder_holds_three_files_and_no_pickle(tmp_path: Path) -> None:
    save_student(student(), tmp_path / "s", card="# mine", extra={"run": "quick"})
    names = sorted(path.name for path in (tmp_path / "s").iterdir())
    assert names == ["README.md", "config.json", "model.safetensors"]
    assert (tmp_path / "s" / "README.md").read_text() == "# mine"
    assert json.loads((tmp_path / "s" / "config.json").read_text())["extra"] == {"run": "quick"}


def test_loading_needs_neither_teachers_nor_training_code(tmp_path: Path) -> None:
    save_student(student(), tmp_path / "s")
    code = "import sys; from distill_mtl import load_student; load_student(sys.argv[1]); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "s"], capture_output=True, text=True, check=True
    )
    loaded = {name.split(".")[1] for name in done.stdout.split() if name.startswith("distill_mtl.")}
    assert "students" in loaded
    assert not loaded & {
        "balance",
        "checks",
        "data",
        "distillation",
        "evaluation",
        "targets",
        "teachers",
        "training",
    }


def damage(folder: Path, **entries: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **entries}))


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        ({"format": "timm"}, "not a student's folder"),
        ({"format_version": 3}, "version 3.* 2\\."),
        ({"tasks": {"left": {"classes": ["a"]}}}, r"config\.json, "),
        ({"tasks": {"left": {"kind": "poetry", "classes": ["a", "b"]}}}, "unknown kind of task 'poetry'"),
        ({"trunk": {"family": "timm"}}, r"config\.json, "),
        ({"tasks": {}}, r"not in the network: heads\.left\.linear"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(
    tmp_path: Path, entries: dict[str, object], complaint: str
) -> None:
    save_student(student(), tmp_path / "s")
    damage(tmp_path / "s", **entries)
    with pytest.raises(StudentError, match=complaint):
        load_student(tmp_path / "s")


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    save_student(student(), tmp_path / "s")
    (tmp_path / "s" / "model.safetensors").unlink()
    with pytest.raises(StudentError, match=r"model\.safetensors does not exist"):
        load_student(tmp_path / "s")


def test_no_folder_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudentError, match="there is no such folder"):
        load_student(tmp_path / "nowhere")
