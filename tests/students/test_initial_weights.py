from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from student_toys import kinds, student

from distill_mtl.errors import StudentError
from distill_mtl.networks.inputs import InputContract
from distill_mtl.networks.weights import read_config, write_network
from distill_mtl.recipe.schema import StudentSection
from distill_mtl.students.initial_weights import build_student
from distill_mtl.students.student import Student
from distill_mtl.students.student_folder import save_student
from distill_mtl.students.timm_form import save_timm


def begin(init: str, folders: dict[str, Path] | None = None, **keys: object) -> Student:
    section = StudentSection(**{"model": "test_resnet", "input_size": 64, "init": init, **keys})
    return build_student(section, kinds(), seed=7, teacher_folders=folders)


def trunks_are_equal(first: Student, second: Student) -> bool:
    ours, theirs = first.trunk.state_dict(), second.trunk.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_trunk_of_a_timm_teacher(tmp_path: Path) -> None:
    source = student(seed=1)
    save_timm(source, "left", tmp_path / "t")
    begun = begin("teacher:left", {"left": tmp_path / "t"})
    assert trunks_are_equal(begun, source)
    assert not torch.equal(begun.heads["left"].linear.weight, source.heads["left"].linear.weight)


def test_the_trunk_of_a_student_folder(tmp_path: Path) -> None:
    source = student(seed=1)
    save_student(source, tmp_path / "s")
    assert trunks_are_equal(begin("teacher:part", {"part": tmp_path / "s"}), source)
    assert trunks_are_equal(begin(str(tmp_path / "s")), source)


@pytest.mark.parametrize("init", ["teacher:left", "FOLDER", "FILE"])
@pytest.mark.parametrize(
    "shape",
    [
        {"branch": {"left": "layer3"}},
        {"private": {"norms": "all"}},
        {"private": {"adapters": ["layer3"]}},
        {"encoders": {"one": ["left"], "other": ["part"]}},
        {"columns": {"kind": "cross_stitch"}},
        {"columns": {"kind": "nddr"}},
    ],
    ids=lambda shape: str(*shape.values()),
)
def test_every_path_of_a_student_in_parts_begins_as_a_network_with_its_classifier(
    tmp_path: Path, shape: dict[str, Any], init: str
) -> None:
    source = student(seed=1)
    save_timm(source, "left", tmp_path)
    where = {"FOLDER": str(tmp_path), "FILE": str(tmp_path / "model.safetensors")}.get(init, init)
    begun = begin(where, {"left": tmp_path}, **shape).trunk
    expected = source.trunk.model.state_dict()
    for task in kinds():
        path = begun.model.columns[task].state_dict() if "columns" in shape else begun.path_state(task)
        assert all(torch.equal(path[key], value) for key, value in expected.items())


def test_a_soft_order_begins_as_a_network_with_its_classifier(tmp_path: Path) -> None:
    source = student("test_vit", seed=1)
    save_timm(source, "left", tmp_path)
    begun = begin("teacher:left", {"left": tmp_path}, model="test_vit", order="soft").trunk
    blocks = begun.state_dict()
    for key, value in source.trunk.model.state_dict().items():
        assert torch.equal(blocks[f"model.root.{key}"], value)


def test_a_file_of_weights(tmp_path: Path) -> None:
    source = student(seed=1)
    whole = timm.create_model("test_resnet", num_classes=5)
    whole.load_state_dict(source.trunk.model.state_dict(), strict=False)
    state = {key: value.contiguous() for key, value in whole.state_dict().items()}
    save_file(state, tmp_path / "weights.safetensors")
    assert trunks_are_equal(begin(str(tmp_path / "weights.safetensors")), source)


def test_the_normalisation_that_weights_expect_comes_with_them_and_the_size_does_not(tmp_path: Path) -> None:
    save_timm(student(seed=1), "left", tmp_path / "t")
    config = read_config(tmp_path / "t")
    config["pretrained_cfg"] |= {"mean": [0.1, 0.2, 0.3], "input_size": [3, 96, 96]}
    write_network(tmp_path / "u", config, timm_state(tmp_path / "t"), "")
    inputs = begin("teacher:left", {"left": tmp_path / "u"}).trunk.inputs
    assert inputs.mean == (0.1, 0.2, 0.3)
    assert inputs.size == (64, 64)


def timm_state(folder: Path) -> dict[str, torch.Tensor]:
    return timm.create_model(f"local-dir:{folder}", pretrained=True).state_dict()


def test_another_architecture_is_refused_with_the_first_differences(tmp_path: Path) -> None:
    save_timm(student("test_convnext", seed=1), "left", tmp_path / "t")
    with pytest.raises(StudentError, match=r"student\.init") as caught:
        begin("teacher:left", {"left": tmp_path / "t"})
    assert "missing in the file: conv1.0.weight" in str(caught.value)
    assert "test_resnet" in str(caught.value)


def test_another_width_is_refused_with_both_shapes(tmp_path: Path) -> None:
    save_student(student(seed=1), tmp_path / "s")
    with pytest.raises(StudentError, match=r"layer4\.0\.conv1\.weight is \[96, .*in the file, \[40"):
        begin(str(tmp_path / "s"), args={"channels": [32, 48, 48, 40]})


def test_a_task_without_a_teacher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudentError, match=r"'right'.* teacher:left"):
        begin("teacher:right", {"left": tmp_path})


def test_a_path_that_does_not_exist_is_refused() -> None:
    with pytest.raises(StudentError, match="'pretraned'.* pretrained, random, zip .*teacher:TASK"):
        begin("pretraned")


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"never to be unpickled")
    with pytest.raises(StudentError, match=r"not a \.safetensors file"):
        begin(str(tmp_path / "weights.pth"))


def test_the_recipes_word_on_a_teachers_input_goes_with_its_trunk(tmp_path: Path) -> None:
    save_timm(student(seed=1), "left", tmp_path / "t")
    corrected = InputContract((32, 32), (0.0,) * 3, (1.0,) * 3, channels="bgr", crop=0.9, batch=4)
    section = StudentSection(model="test_resnet", input_size=64, init="teacher:left")
    begun = build_student(
        section,
        kinds(),
        seed=7,
        teacher_folders={"left": tmp_path / "t"},
        teacher_inputs={"left": corrected},
    )
    assert begun.trunk.inputs == InputContract((64, 64), (0.0,) * 3, (1.0,) * 3, channels="bgr")
