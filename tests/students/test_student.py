import copy

import pytest
import torch
from student_toys import kinds, student
from torch import nn

from distill_mtl.errors import StudentError
from distill_mtl.recipe.schema import StudentSection
from distill_mtl.students.initial_weights import build_student
from distill_mtl.students.student import Student
from distill_mtl.tasks.base import build_kind


def build(hints: list[str | None] | None = None, **keys: object) -> Student:
    section = StudentSection(**{"model": "test_resnet", "input_size": 64, "init": "random", **keys})
    return build_student(section, kinds(), hints or [], seed=0)


@pytest.mark.parametrize(
    "model",
    ["test_resnet", "test_convnext", "test_efficientnet", "test_mambaout", "test_vit", "test_byobnet"],
)
def test_every_task_gets_logits_from_one_trunk(model: str) -> None:
    subject = student(model)
    logits = subject(torch.rand(2, 3, 40, 56))
    assert logits["left"].shape == (2, 3)
    assert logits["part"].shape[:2] == (2, 2)
    sum(answer.square().mean() for answer in logits.values()).backward()
    assert all(parameter.grad is not None for parameter in subject.parameters() if parameter.requires_grad)


def test_running_trunk_and_heads_apart_is_running_the_student() -> None:
    subject, images = student(), torch.rand(2, 3, 64, 64)
    features = subject.trunk(images)
    whole = subject(images)
    assert all(torch.equal(subject.heads[task](features), whole[task]) for task in whole)


def test_the_quickstarts_trunk_at_32_pixels_has_five_stages_down_to_one_cell() -> None:
    trunk = student(input_size=32).trunk
    maps = {name: (trunk.shapes[name].channels, trunk.shapes[name].size) for name in trunk.stages}
    assert maps == {
        "act1": (32, (16, 16)),
        "layer1": (32, (8, 8)),
        "layer2": (48, (4, 4)),
        "layer3": (192, (2, 2)),
        "layer4": (96, (1, 1)),
    }
    assert sum(parameter.numel() for parameter in trunk.parameters()) < 375_000


def test_hint_layers_are_given_besides_what_heads_read() -> None:
    only_left = {"left": kinds()["left"]}
    section = StudentSection(model="test_resnet", input_size=64, init="random")
    subject = build_student(section, only_left, [None, "layer2.0.conv1", None], seed=0)
    assert subject.trunk.returns == ("pooled", "layer4", "layer2.0.conv1")
    assert set(subject.trunk(torch.rand(1, 3, 64, 64))) == set(subject.trunk.returns)
    assert subject.trunk.shapes["layer2.0.conv1"].channels == 48


def test_an_unknown_hint_layer_is_answered_with_the_nearest() -> None:
    with pytest.raises(StudentError, match=r"no layer 'layer44'\. Did you mean 'layer4'"):
        build(["layer44"])


def test_a_deep_copy_is_independent() -> None:
    subject, images = student(), torch.rand(2, 3, 64, 64)
    expected, twin = subject(images)["left"], copy.deepcopy(subject)
    for parameter in twin.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(subject(images)["left"], expected)
    assert not torch.equal(twin(images)["left"], expected)


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_state_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = student(seed=1), student(seed=1), student(seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.trunk.model.conv1[0].weight, other.trunk.model.conv1[0].weight)


def test_building_moves_no_batchnorm_statistics() -> None:
    means = [buffer for name, buffer in student().named_buffers() if name.endswith("running_mean")]
    assert means
    assert not any(mean.any() for mean in means)


def test_parameters_that_no_feature_depends_on_are_taken_out_of_training() -> None:
    only_part = {"part": kinds()["part"]}
    subject = student("test_vit", tasks=only_part)
    frozen = {name for name, parameter in subject.named_parameters() if not parameter.requires_grad}
    assert frozen == {"trunk.model.norm.weight", "trunk.model.norm.bias"}
    assert all(parameter.requires_grad for parameter in student("test_vit").parameters())


def test_normalisation_layers_can_be_named_in_a_recipe() -> None:
    norms = [type(module).__name__ for module in build(args={"norm_layer": "groupnorm1"}).trunk.modules()]
    assert "GroupNorm1" in norms
    assert "BatchNorm2d" not in norms


def test_lists_in_args_reach_timm() -> None:
    assert build(args={"channels": [16, 24, 32, 40]}).trunk.shapes["layer4"].channels == 40


def test_a_transformer_is_built_for_the_recipes_size() -> None:
    trunk = student("test_vit", input_size=(32, 64)).trunk
    assert trunk.inputs.size == (32, 64)
    assert trunk.args == {"img_size": [32, 64]}
    assert trunk.shapes[trunk.last].size == (2, 4)


def test_without_a_size_the_architectures_own_is_taken() -> None:
    assert student(input_size=None).trunk.inputs.size == (160, 160)
    assert student("test_vit", input_size=None, args={"img_size": 96}).trunk.inputs.size == (96, 96)


def test_a_grey_student_takes_colour_batches() -> None:
    subject = student(args={"in_chans": 1})
    assert subject.trunk.inputs.channels == "grey"
    assert subject(torch.rand(2, 3, 64, 64))["left"].shape == (2, 3)


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"model": "resnet81"}, "no model 'resnet81'. Did you mean 'resnet18'"),
        ({"model": "resnet18.a9_in9k"}, "no weights tagged 'a9_in9k'. Known: .*resnet18.a1_in1k"),
        ({"model": "lenets:resnet18"}, "unknown student family 'lenets'"),
        ({"args": {"wings": 2}}, "timm cannot build test_resnet with args .*wings"),
        ({"args": {"norm_layer": "groupnrm"}}, "timm cannot build test_resnet with args .*groupnrm"),
        ({"args": {"num_classes": 5}}, r"student\.args: num_classes"),
        ({"args": {"checkpoint_path": "x.pth"}}, r"student\.args: checkpoint_path"),
        ({"model": "test_vit", "args": {"img_size": 32}}, "Remove one"),
        ({"model": "test_vit", "input_size": 40}, "student: "),
    ],
)
def test_a_student_that_cannot_be_built_is_refused(keys: dict[str, object], complaint: str) -> None:
    with pytest.raises(StudentError, match=complaint):
        build(**keys)


@pytest.mark.parametrize("task", ["train", "type", "keys"])
def test_a_task_whose_name_pytorch_keeps_is_refused(task: str) -> None:
    with pytest.raises(StudentError, match=f"tasks.{task}: .*Rename"):
        student(tasks={task: build_kind("classification", ["a", "b"])})
