import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants
from teacher_folders import timm_folder

from distill_mtl.errors import TeacherError
from distill_mtl.networks.hub_repository import timm_repository
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.teachers.load_teacher import load_teacher

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local cache of the hub, and no way to the hub itself."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def publish(hub: Path, repository: str) -> Path:
    """Put a timm folder into the cache as the hub's own client does; returns the folder of its files."""
    home = hub / f"models--{repository.replace('/', '--')}"
    folder = home / "snapshots" / COMMIT
    timm_folder(folder)
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(COMMIT)
    return folder


@pytest.mark.parametrize(
    "section",
    [TeacherSection(path="hf_hub:owner/breeds"), TeacherSection(timm="hf_hub:owner/breeds")],
)
def test_a_network_on_the_hub_is_a_folder(hub: Path, section: TeacherSection) -> None:
    folder = publish(hub, "owner/breeds")
    teacher = load_teacher(section, task="breed")
    assert teacher.card.file == folder / "model.safetensors"
    assert len(teacher.card.classes) == 4


def test_a_name_of_timm_is_its_repository(hub: Path) -> None:
    assert timm_repository("resnet50.a1_in1k") == "timm/resnet50.a1_in1k"
    publish(hub, "timm/resnet50.a1_in1k")
    assert load_teacher(TeacherSection(timm="resnet50.a1_in1k"), task="breed").card.kind == "classification"


def test_a_network_that_cannot_be_fetched_says_how_to_bring_it() -> None:
    with pytest.raises(
        TeacherError, match=r"hf_hub:owner/absent cannot be fetched.*copy the folder"
    ) as caught:
        load_teacher(TeacherSection(path="hf_hub:owner/absent"), task="breed")
    assert "\n" not in str(caught.value)


def test_a_repository_of_pickles_is_not_opened(hub: Path) -> None:
    folder = publish(hub, "owner/old")
    shutil.move(folder / "model.safetensors", folder / "pytorch_model.bin")
    with pytest.raises(TeacherError, match=r"has no model\.safetensors; .*pickles"):
        load_teacher(TeacherSection(path="hf_hub:owner/old"), task="breed")


def test_an_unknown_name_of_timm_is_answered_with_the_nearest() -> None:
    with pytest.raises(TeacherError, match=r"no pretrained network 'resnet5O\.a1_in1k'.* 'resnet50"):
        load_teacher(TeacherSection(timm="resnet5O.a1_in1k"), task="breed")
