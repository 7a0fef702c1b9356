from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from student_toys import student

from distill_mtl.errors import StudentError


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The hub's client, as on a machine with nothing in its cache and a hub that refuses connections."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    return tmp_path


def test_without_a_hub_the_other_ways_to_begin_are_offered(empty_cache: Path) -> None:
    with pytest.raises(StudentError, match=r"does not answer") as caught:
        student(init="pretrained")
    assert all(way in str(caught.value) for way in ("teacher:TASK", ".safetensors", "init: random"))


def test_an_offline_client_is_said_to_be_offline(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(StudentError, match="HF_HUB_OFFLINE is set"):
        student(init="pretrained")


def test_weights_in_the_cache_are_used_without_a_hub(empty_cache: Path) -> None:
    source = timm.create_model("test_resnet")
    repository = timm.models.get_pretrained_cfg("test_resnet").hf_hub_id
    folder = empty_cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    save_file(source.state_dict(), folder / "snapshots" / "abc" / "model.safetensors")
    trunk = student(init="pretrained").trunk
    assert torch.equal(trunk.model.layer4[0].conv1.weight, source.layer4[0].conv1.weight)


def test_an_architecture_without_weights_is_refused(empty_cache: Path) -> None:
    with pytest.raises(StudentError, match="of botnet50ts_256 could not be loaded: timm has none"):
        student("botnet50ts_256", init="pretrained")
