from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import get_model

from distill_mtl.errors import TeacherError
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.teachers.load_teacher import load_teacher
from distill_mtl.teachers.teacher import Teacher


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """State dicts with random weights, of the shapes that torchvision releases."""
    folder = tmp_path_factory.mktemp("torchvision")
    torch.manual_seed(1)
    torch.save(get_model("mobilenet_v3_small").state_dict(), folder / "small.pth")
    torch.save(get_model("mobilenet_v3_small", num_classes=3).state_dict(), folder / "three.pth")
    lraspp = get_model("lraspp_mobilenet_v3_large", weights_backbone=None)
    torch.save(lraspp.state_dict(), folder / "lraspp.pth")
    return folder


def teacher_of(name: str, **keys: Any) -> Teacher:
    return load_teacher(TeacherSection(torchvision=name, **keys), task="thing", layers=[None])


def eager(name: str, file: Path, **args: Any) -> torch.nn.Module:
    network = get_model(name, **args)
    network.load_state_dict(torch.load(file, weights_only=True))
    return network.eval()


def test_the_weights_enum_is_the_contract_and_names_the_classes(files: Path) -> None:
    teacher = teacher_of("mobilenet_v3_small.IMAGENET1K_V1", weights=str(files / "small.pth"))
    inputs = teacher.card.inputs
    assert (inputs.size, inputs.resize, inputs.crop, inputs.mean) == (
        (224, 224),
        "crop",
        0.875,
        (0.485, 0.456, 0.406),
    )
    assert teacher.card.assumed == ()
    assert len(teacher.card.classes) == 1000
    assert teacher.card.classes[0] == "tench"


def test_the_answer_is_that_of_the_eager_network(files: Path) -> None:
    teacher = teacher_of("mobilenet_v3_small.IMAGENET1K_V1", weights=str(files / "small.pth"))
    images, network = torch.rand(2, 3, 70, 90), eager("mobilenet_v3_small", files / "small.pth")
    with torch.no_grad():
        expected = network(teacher.network.preprocess(images))
    assert torch.allclose(teacher(images).logits, expected, atol=1e-5)
    assert teacher.card.last_map == "features"
    assert teacher.parameter_count == sum(parameter.numel() for parameter in network.parameters())


def test_a_network_that_was_trained_further_keeps_the_contract_and_has_its_own_classes(files: Path) -> None:
    keys: dict[str, Any] = {"weights": str(files / "three.pth"), "args": {"num_classes": 3}}
    teacher = teacher_of("mobilenet_v3_small.IMAGENET1K_V1", **keys)
    assert (teacher.card.inputs.crop, teacher.card.classes) == (0.875, ("0", "1", "2"))
    bare = teacher_of("mobilenet_v3_small", **keys, input={"size": 64})
    assert "mean" in bare.card.assumed
    assert bare.card.fingerprint != teacher.card.fingerprint


def test_a_segmenter_sees_the_whole_view(files: Path) -> None:
    name = "lraspp_mobilenet_v3_large.COCO_WITH_VOC_LABELS_V1"
    teacher = teacher_of(name, weights=str(files / "lraspp.pth"), input={"size": 64})
    images = torch.rand(1, 3, 64, 64)
    network = eager("lraspp_mobilenet_v3_large", files / "lraspp.pth", weights_backbone=None)
    with torch.no_grad():
        expected = network(teacher.network.preprocess(images))["out"]
    assert teacher.card.kind == "segmentation"
    assert teacher.card.classes[:2] == ("__background__", "aeroplane")
    assert torch.allclose(teacher(images).logits, expected, atol=1e-5)


def test_weights_that_cannot_be_fetched_say_how_to_bring_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*arguments: Any, **options: Any) -> None:
        raise OSError("no way to it")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(
        TeacherError, match=r"cannot be fetched: .*resnet50-11ad3fa6\.pth elsewhere.*`weights: resnet50"
    ):
        teacher_of("resnet50.IMAGENET1K_V2")


def test_released_weights_in_torchs_cache_are_found(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "mobilenet_v3_small-047dcff4.pth").write_bytes(
        (files / "small.pth").read_bytes()
    )
    assert teacher_of("mobilenet_v3_small.DEFAULT").card.file.name == "mobilenet_v3_small-047dcff4.pth"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("resnet5O", r"no network 'resnet5O'.*resnet50"),
        ("resnet50.IMAGENET1K_V3", r"no weights 'IMAGENET1K_V3'.*IMAGENET1K_V1, IMAGENET1K_V2"),
        ("resnet50", r"names no weights.*`torchvision: resnet50\.IMAGENET1K_V1`"),
        ("r3d_18", "answers for videos"),
    ],
)
def test_a_name_that_is_none_of_torchvisions_is_answered(name: str, complaint: str) -> None:
    with pytest.raises(TeacherError, match=complaint):
        teacher_of(name)
