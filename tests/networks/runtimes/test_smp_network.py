import json
from pathlib import Path
from typing import Any

import pytest
import torch

from distill_mtl.errors import TeacherError
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.teachers.load_teacher import load_teacher
from distill_mtl.teachers.teacher import Teacher

smp = pytest.importorskip("segmentation_models_pytorch")


def unet(folder: Path, encoder: str = "tu-test_resnet", **args: Any) -> Any:
    """Saved as the library saves it."""
    torch.manual_seed(1)
    args = {"classes": 3, "encoder_depth": 4, "decoder_channels": (16, 8, 8, 8), **args}
    network = smp.Unet(encoder, encoder_weights=None, **args).eval()
    network.save_pretrained(folder)
    return network


def teacher_in(folder: Path, **keys: Any) -> Teacher:
    section = TeacherSection(smp=str(folder), input={"size": 64}, **keys)
    return load_teacher(section, task="things", layers=[None])


def test_a_folder_is_a_teacher_that_answers_as_the_eager_network(tmp_path: Path) -> None:
    network, teacher, images = unet(tmp_path), teacher_in(tmp_path), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = network(teacher.network.preprocess(images))
    assert torch.allclose(teacher(images).logits, expected, atol=1e-5)
    assert (teacher.card.kind, teacher.card.form) == (
        "segmentation",
        "a network of segmentation-models-pytorch",
    )
    assert teacher.parameter_count == sum(parameter.numel() for parameter in network.parameters())
    assert teacher(images).hidden[str(teacher.card.last_map)].ndim == 4


def test_colours_are_those_of_its_encoder_where_they_are_known(tmp_path: Path) -> None:
    unet(tmp_path / "timm", "tu-resnet18")
    assert teacher_in(tmp_path / "timm").card.assumed == ()
    unet(tmp_path / "hub", "resnet18")
    assert teacher_in(tmp_path / "hub").card.assumed == ("mean", "std", "white", "channels")


def test_a_path_to_such_a_folder_is_the_same_teacher(tmp_path: Path) -> None:
    unet(tmp_path)
    section = TeacherSection(path=str(tmp_path), input={"size": 64})
    assert (
        load_teacher(section, task="things", layers=[None]).card.fingerprint
        == teacher_in(tmp_path).card.fingerprint
    )


def test_its_size_is_in_no_file_and_asked_for(tmp_path: Path) -> None:
    unet(tmp_path)
    with pytest.raises(TeacherError, match=r"`input: {size: \.\.\.}`"):
        load_teacher(TeacherSection(smp=str(tmp_path)), task="things")


def test_one_channel_is_the_second_of_two_classes(tmp_path: Path) -> None:
    unet(tmp_path, classes=1, activation="sigmoid")
    teacher = teacher_in(tmp_path)
    assert teacher.card.classes == ("0", "1")
    assert teacher.network.gives == "probabilities"


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [({"_model_class": "Unett"}, r"no 'Unett'.*'Unet'"), ({"encoder_depth": 3}, "do not fit|cannot build")],
)
def test_a_config_that_fits_no_network_is_refused(
    tmp_path: Path, entries: dict[str, Any], complaint: str
) -> None:
    unet(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | entries))
    with pytest.raises(TeacherError, match=complaint):
        teacher_in(tmp_path)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    unet(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(TeacherError, match=r"pytorch_model\.bin, a pickle"):
        teacher_in(tmp_path)
