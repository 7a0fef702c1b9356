from pathlib import Path

import pytest
import timm
import torch
from student_toys import kinds, student
from torch import nn

from distill_mtl.errors import StudentError
from distill_mtl.networks.inputs import InputContract, Preprocess
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.students.timm_form import save_timm
from distill_mtl.tasks.base import build_kind
from distill_mtl.teachers.load_teacher import load_teacher


@pytest.mark.parametrize(
    ("model", "keys"),
    [
        ("test_resnet", {"args": {"channels": [16, 24, 32, 40], "norm_layer": "groupnorm1"}}),
        ("test_efficientnet", {"args": {"in_chans": 1}}),
        ("test_mambaout", {}),
        ("test_convnext", {"input_size": (64, 96)}),
        ("test_vit", {"input_size": (32, 64)}),
    ],
)
def test_timm_opens_the_folder_and_gives_the_same_logits(
    tmp_path: Path, model: str, keys: dict[str, object]
) -> None:
    subject, images = student(model, **keys), torch.rand(2, 3, 40, 60)
    save_timm(subject, "left", tmp_path / "t")
    theirs = timm.create_model(f"local-dir:{tmp_path / 't'}", pretrained=True).eval()
    with torch.no_grad():
        expected = subject(images)["left"]
        assert torch.allclose(theirs(subject.trunk.preprocess(images)), expected, atol=1e-5)
    teacher = load_teacher(TeacherSection(path=str(tmp_path / "t")), task="left")
    assert teacher.card.inputs == subject.trunk.inputs
    assert teacher.card.classes == ("a", "b", "c")
    assert torch.allclose(teacher(images).logits, expected, atol=1e-5)


def test_timms_own_preprocessing_is_the_students(tmp_path: Path) -> None:
    subject = student()
    save_timm(subject, "left", tmp_path / "t")
    theirs = timm.create_model(f"local-dir:{tmp_path / 't'}", pretrained=True)
    config = timm.data.resolve_model_data_config(theirs)
    inputs = subject.trunk.inputs
    assert tuple(config["input_size"]) == (3, *inputs.size)
    assert (tuple(config["mean"]), tuple(config["std"])) == (inputs.mean, inputs.std)
    assert (config["interpolation"], config["crop_pct"]) == (inputs.interpolation, 1.0)


def test_the_folder_holds_no_pickle(tmp_path: Path) -> None:
    save_timm(student(), "left", tmp_path / "t")
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


def test_saving_leaves_the_student_as_it_was(tmp_path: Path) -> None:
    subject = student().train()
    before = {key: value.clone() for key, value in subject.state_dict().items()}
    save_timm(subject, "left", tmp_path / "t")
    assert subject.trunk.model.training
    assert all(torch.equal(before[key], value) for key, value in subject.state_dict().items())


def test_a_dense_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudentError, match="more than one linear layer"):
        save_timm(student(), "part", tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_a_deeper_head_is_refused_with_the_form_that_holds_it(tmp_path: Path) -> None:
    deeper = student(tasks={"left": build_kind("classification", ["a", "b"], head={"depth": 2})})
    with pytest.raises(StudentError, match=r"more than one linear layer.* save_student"):
        save_timm(deeper, "left", tmp_path / "t")


def test_a_head_of_other_layers_is_refused(tmp_path: Path) -> None:
    subject = student(tasks={"left": kinds()["left"]})
    subject.heads["left"].more = nn.Linear(3, 3)
    with pytest.raises(StudentError, match="more than one linear layer"):
        save_timm(subject, "left", tmp_path / "t")


def test_an_input_that_timm_has_no_words_for_is_refused(tmp_path: Path) -> None:
    subject = student()
    inputs = subject.trunk.inputs
    subject.trunk.preprocess = Preprocess(InputContract(inputs.size, inputs.mean, inputs.std, channels="bgr"))
    with pytest.raises(StudentError, match="left .*timm's form .*input, .*bgr"):
        save_timm(subject, "left", tmp_path / "t")
