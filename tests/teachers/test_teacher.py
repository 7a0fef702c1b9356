import copy
from pathlib import Path

import pytest
import timm
import torch
from teacher_folders import timm_folder
from timm.models import save_for_hf
from torch import nn

from distill_mtl.networks.inputs import InputContract
from distill_mtl.networks.weights import RecordedScore, write_score
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.teachers.load_teacher import load_teacher
from distill_mtl.teachers.teacher import Teacher


def teacher(folder: Path, layers: tuple[str | None, ...] = (None,)) -> Teacher:
    if not folder.exists():
        timm_folder(folder)
    return load_teacher(TeacherSection(path=str(folder)), task="breed", layers=layers)


def test_nothing_in_a_training_loop_moves_a_teacher(tmp_path: Path) -> None:
    subject = teacher(tmp_path / "t")
    before = copy.deepcopy(subject.state_dict())
    student = nn.Conv2d(3, 4, 3)
    both = nn.ModuleList([student, subject])
    assert not any(parameter.requires_grad for parameter in subject.parameters())
    optimizer = torch.optim.SGD(both.parameters(), lr=1.0, weight_decay=0.1)
    for _ in range(3):
        both.train()
        images = torch.rand(8, 3, 64, 64)
        answer = subject(images)
        loss = (student(images).mean((2, 3)) - answer.logits).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert any("running_var" in key for key in before)
    assert all(torch.equal(before[key], value) for key, value in subject.state_dict().items())
    assert not any(module.training for module in subject.modules())


def test_answers_carry_no_graph_and_may_enter_a_trainable_adapter(tmp_path: Path) -> None:
    answer = teacher(tmp_path / "t")(torch.rand(2, 3, 64, 64))
    assert not answer.logits.requires_grad
    adapter = nn.Conv2d(96, 5, 1)
    adapter(answer.hidden["layer4"]).sum().backward()
    assert adapter.weight.grad is not None


def test_an_answer_does_not_depend_on_the_rest_of_the_batch(tmp_path: Path) -> None:
    subject, images = teacher(tmp_path / "t").train(), torch.rand(4, 3, 64, 64)
    assert torch.allclose(subject(images).logits[:1], subject(images[:1]).logits, atol=1e-5)


def test_a_teacher_resizes_and_normalises_for_itself(tmp_path: Path) -> None:
    network = timm_folder(tmp_path / "t")
    subject = teacher(tmp_path / "t")
    images = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(network.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        expected = network((images - mean) / std)
    assert torch.allclose(subject(images).logits, expected, atol=1e-4)
    assert subject(torch.rand(2, 3, 100, 30)).hidden["layer4"].shape == (2, 96, 2, 2)


def test_hidden_features_are_those_asked_for_each_once(tmp_path: Path) -> None:
    subject = teacher(tmp_path / "t", (None, "layer2.0.bn1", "layer4", "pooled"))
    assert subject.card.last_map == "layer4"
    assert subject.card.layers == ("layer4", "layer2.0.bn1", "pooled")
    hidden = subject(torch.rand(2, 3, 64, 64)).hidden
    assert tuple(hidden) == subject.card.layers
    for layer, feature in hidden.items():
        shape = subject.card.shapes[layer]
        assert feature.shape[1:] == (shape.channels, *(shape.size or ()))


def test_a_deep_copy_answers_alike(tmp_path: Path) -> None:
    subject, images = teacher(tmp_path / "t"), torch.rand(2, 3, 64, 64)
    twin, expected = copy.deepcopy(subject), subject(images)
    for parameter in subject.parameters():
        parameter.zero_()
    answer = twin(images)
    assert torch.equal(answer.logits, expected.logits)
    assert torch.equal(answer.hidden["layer4"], expected.hidden["layer4"])


def test_another_reading_shares_the_weights_and_leaves_the_teacher_as_it_was(tmp_path: Path) -> None:
    subject, images = teacher(tmp_path / "t"), torch.rand(2, 3, 64, 64)
    expected = subject(images)
    bare = InputContract((64, 64), (0.0,) * 3, (1.0,) * 3)
    assert not torch.allclose(subject.with_inputs(bare)(images).logits, expected.logits, atol=1e-3)
    normalised = subject.network.backbone.preprocess(images)
    assert torch.allclose(subject.with_inputs(bare)(normalised).logits, expected.logits, atol=1e-5)
    again = subject(images)
    assert torch.equal(again.logits, expected.logits)
    assert torch.equal(again.hidden["layer4"], expected.hidden["layer4"])


def test_a_teacher_says_what_was_loaded(tmp_path: Path) -> None:
    timm_folder(tmp_path / "t", classes=2, label_names=["cat", "dog"])
    described = teacher(tmp_path / "t").card.describe()
    assert described["file"] == str((tmp_path / "t" / "model.safetensors").resolve())
    assert len(described["sha256"]) == 64
    assert described["classes"] == ["cat", "dog"]
    assert described["input"]["size"] == [64, 64]


def test_a_recorded_score_comes_with_the_teacher(tmp_path: Path) -> None:
    timm_folder(tmp_path / "t")
    assert teacher(tmp_path / "t").card.score is None
    score = RecordedScore("accuracy", 93.5, 100, "breed", "classification", "the test set", "train it")
    write_score(tmp_path / "t", score)
    assert teacher(tmp_path / "t").card.score == score


@pytest.mark.parametrize("model", ["test_vit", "test_mambaout"])
def test_transformers_and_channels_last_networks_hint_with_maps(tmp_path: Path, model: str) -> None:
    save_for_hf(timm.create_model(model, num_classes=3), str(tmp_path / "t"), safe_serialization=True)
    subject = teacher(tmp_path / "t")
    feature = subject(torch.rand(2, 3, 64, 64)).hidden[subject.card.last_map]
    assert feature.ndim == 4
    assert feature.shape[2] == feature.shape[3]
