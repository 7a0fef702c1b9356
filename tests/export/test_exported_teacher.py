"""An exported file is a teacher like any other: what its note says is all that a recipe needs."""

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from export_toys import every_kind

from distill_mtl import load_student
from distill_mtl.errors import TeacherError, UserError
from distill_mtl.networks.features import FeatureShape
from distill_mtl.networks.file_contract import NOTE
from distill_mtl.networks.opening import open_network
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.tasks.base import KINDS
from distill_mtl.teachers.load_teacher import Asked, load_teacher, teachers_of
from distill_mtl.teachers.shared_trunks import JoinedTeachers

Exported = Callable[..., Path]


@pytest.mark.parametrize("to", ["onnx", "pt2", "torchscript"])
def test_every_task_of_a_file_teaches_as_the_student_does(exported: Exported, to: str) -> None:
    file = exported(to, "test_resnet", preprocess="float", decode=True)
    batch, loaded = torch.rand(3, 3, 20, 20), load_student(file.parent / "student")
    for task, kind in every_kind().items():
        section = TeacherSection(path=str(file), trust=to != "onnx")
        teacher = load_teacher(
            section, task=task, kind=kind.name, options=loaded.student.kinds[task].describe()
        )
        assert teacher.card.classes == kind.classes
        assert teacher.card.assumed == ()
        assert type(loaded.student.kinds[task]) is KINDS[teacher.card.kind].class_for(teacher.card.options)
        with torch.no_grad():
            assert torch.allclose(teacher(batch).logits, loaded(batch)[task]["logits"], atol=1e-4), task


@pytest.mark.parametrize("to", ["onnx", "pt2", "torchscript"])
def test_a_file_that_takes_normalised_pixels_teaches_alike(exported: Exported, to: str) -> None:
    file = exported(to)
    batch, loaded = torch.rand(3, 3, 20, 20), load_student(file.parent / "student")
    teacher = load_teacher(TeacherSection(path=str(file), trust=to != "onnx"), task="shape")
    with torch.no_grad():
        assert torch.allclose(teacher(batch).logits, loaded(batch)["shape"]["logits"], atol=1e-4)


def test_a_task_is_chosen_by_its_name(exported: Exported) -> None:
    file = str(exported("onnx"))
    teacher = load_teacher(TeacherSection(path=file, task="shape"), task="road")
    assert teacher.card.kind == "segmentation"
    with pytest.raises(TeacherError, match="no task 'road'.*hue, shape"):
        load_teacher(TeacherSection(path=file), task="road")


def test_the_only_task_needs_no_name(exported: Exported) -> None:
    file = str(exported("onnx", only=["hue"]))
    assert load_teacher(TeacherSection(path=file), task="paint").card.kind == "classification"


def test_a_file_is_compared_by_the_names_of_its_tasks(exported: Exported) -> None:
    both = exported("onnx")
    network = open_network(both)
    assert list(network.tasks) == ["hue", "shape"]
    found = JoinedTeachers(teachers_of(network, {"hue": Asked(), "shape": Asked()}))
    batch = torch.rand(2, 3, 8, 8)
    mine, theirs = found(batch), load_student(both.parent / "student")(batch)
    for task in ("hue", "shape"):
        assert torch.allclose(mine[task], theirs[task]["logits"], atol=1e-4)
    with pytest.raises(UserError, match=r"has no task 'heu'. Did you mean 'hue'\?"):
        teachers_of(network, {"heu": Asked()})
    alone = str(exported("onnx", only=["shape"]))
    assert teachers_of(open_network(alone), {"road": Asked()})["road"].card.kind == "segmentation"


def test_the_other_tasks_answers_are_no_hints(exported: Exported) -> None:
    file = str(exported("torchscript"))
    teacher = load_teacher(TeacherSection(path=file, trust=True), task="hue", layers=[None])
    assert teacher.card.layers == ()


@pytest.mark.parametrize("to", ["onnx", "pt2"])
def test_the_default_hint_of_a_task_is_nothing_of_another_tasks_head(exported: Exported, to: str) -> None:
    file, alone = str(exported(to)), str(exported(to, only=["hue"]))
    batch = torch.rand(2, 3, 8, 8)
    hidden = []
    for path in (file, alone):
        teacher = load_teacher(TeacherSection(path=path, trust=to == "pt2"), task="hue", layers=[None])
        (layer,) = teacher.card.layers
        hidden.append(teacher(batch).hidden[layer])
    assert hidden[0].shape == (2, 12, 2, 2), "the trunk's last stage"
    assert torch.allclose(*hidden, atol=1e-6)


def test_neither_the_picture_nor_labels_nor_an_answer_is_offered_as_a_layer_for_hints(
    exported: Exported,
) -> None:
    file = exported("onnx", "test_resnet", preprocess="float", decode=True)
    network = load_teacher(TeacherSection(path=str(file)), task="breed").network
    layers = network.features()
    assert layers
    assert not set(layers) & set(network.outputs)
    assert FeatureShape(3, network.inputs.size) not in layers.values()
    network.tap(list(layers))
    with torch.no_grad():
        given = network.run(torch.rand(2, 3, *network.inputs.size))
    assert all(given[name].is_floating_point() for name in layers)


def test_classes_that_a_file_numbers_are_said_by_the_file(exported: Exported, tmp_path: Path) -> None:
    model = onnx.load(exported("onnx"))
    note = json.loads(model.metadata_props[0].value)
    width = len(note["tasks"]["hue"]["classes"])
    note["tasks"]["hue"]["classes"] = [str(number) for number in range(width)]
    onnx.helper.set_model_props(model, {NOTE: json.dumps(note)})
    onnx.save(model, tmp_path / "numbered.onnx")
    teacher = load_teacher(TeacherSection(path=str(tmp_path / "numbered.onnx")), task="hue")
    assert "classes" in teacher.card.told
