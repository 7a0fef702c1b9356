"""Students whose tasks part in the trunk."""

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from student_toys import apart, student
from student_toys import three_kinds as kinds
from torch import Tensor

from distill_mtl.balance import Shared, make_rule
from distill_mtl.errors import StudentError
from distill_mtl.students.shapes.branch import SplitTrunk
from distill_mtl.students.student import Student
from distill_mtl.students.student_folder import load_student, save_student

BRANCHES: dict[str, Any] = {
    "test_resnet": {"layer3": [["a", "b"], ["c"]], "layer4": "own"},
    "test_vit": {"a": "blocks.3", "b": "blocks.1"},
    "test_convnext": {"stages.2": [["a"], ["b", "c"]]},
    "test_efficientnet": {"a": "blocks.3"},
}


def tree(model: str = "test_resnet", branch: Any = None, **keys: Any) -> tuple[Student, SplitTrunk]:
    """A student in parts, in evaluation mode."""
    found = student(model, tasks=kinds(), branch=branch or BRANCHES[model], **keys)
    assert isinstance(found.trunk, SplitTrunk)
    return found, found.trunk


def images(rows: int = 2) -> Tensor:
    return torch.rand(rows, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("model", BRANCHES)
def test_every_task_begins_with_the_features_of_the_plain_trunk(model: str) -> None:
    parted, trunk = tree(model)
    plain = student(model, tasks=kinds())
    with torch.no_grad():
        features, expected = trunk(images()), plain.trunk(images())
    for task in kinds():
        own = trunk.of(task, features)
        assert list(own)
        assert all(torch.equal(feature, expected[layer]) for layer, feature in own.items())
    assert parted.trunk.shapes == plain.trunk.shapes


@pytest.mark.parametrize("model", BRANCHES)
def test_a_saved_student_in_parts_gives_the_same_answers(model: str, tmp_path: Path) -> None:
    parted = apart(tree(model)[0])
    save_student(parted, tmp_path / "student")
    loaded = load_student(tmp_path / "student").student
    with torch.no_grad():
        expected, found = parted(images()), loaded(images())
    assert all(torch.equal(expected[task], found[task]) for task in expected)


@pytest.mark.parametrize("tasks", [["a"], ["a", "b"], ["b", "c"]])
@pytest.mark.parametrize("model", BRANCHES)
def test_the_part_for_some_tasks_gives_the_same_features(model: str, tasks: list[str]) -> None:
    parted, trunk = tree(model)
    apart(parted)
    part = trunk.only(tasks)
    with torch.no_grad():
        expected, found = trunk(images()), part(images())
    for task in tasks:
        whole = trunk.of(task, expected)
        for layer, feature in part.of(task, found).items():
            assert layer not in whole or torch.equal(feature, whole[layer])


@pytest.mark.parametrize(
    ("model", "branch", "args"),
    [
        ("hrnet_w18_small", {"a": "stage4", "b": "stage3"}, {}),
        ("vit_tiny_patch16_dinov3_qkvb", {"a": "blocks.9"}, {"img_size": 64}),
    ],
)
def test_networks_whose_stages_hand_on_more_than_a_tensor_part_too(
    model: str, branch: Any, args: dict[str, Any]
) -> None:
    if not timm.is_model(model):
        pytest.skip(f"timm {timm.__version__} has no {model}")
    _, trunk = tree(model, branch, args=args)
    plain = student(model, tasks=kinds(), args=args)
    with torch.no_grad():
        features, expected = trunk(images()), plain.trunk(images())
        at_nodes = trunk.cut(images(), list(kinds()))
    for task in kinds():
        for layer, feature in trunk.of(task, features).items():
            assert torch.equal(feature, expected[layer])
            assert torch.equal(feature, at_nodes[task][layer])


def test_the_path_of_a_task_is_a_network_of_timm() -> None:
    parted, trunk = tree()
    apart(parted)
    model: Any = timm.create_model("test_resnet", num_classes=0)
    model.load_state_dict(trunk.path_state("c"), strict=True)
    model = model.eval().to(memory_format=torch.channels_last)
    with torch.no_grad():
        pooled = model(trunk.preprocess(images()).contiguous(memory_format=torch.channels_last))
        trunk.tap(["pooled"])
        assert torch.equal(trunk.of("c", trunk(images()))["pooled"], pooled)


def test_nodes_that_differ_in_nothing_are_one() -> None:
    _, trunk = tree()
    named = [(node.name, node.parent, node.tasks) for node in trunk.nodes]
    assert named == [
        ("root", None, ("a", "b", "c")),
        ("a+b", "root", ("a", "b")),
        ("c", "root", ("c",)),
        ("a", "a+b", ("a",)),
        ("b", "a+b", ("b",)),
    ]
    assert trunk.nodes[2].stop == len(trunk.model.chain)


def test_tasks_that_leave_by_name_leave_alone_and_the_others_stay_together() -> None:
    _, trunk = tree("test_resnet", {"a": "layer4", "b": "layer3"})
    assert trunk.said == {"layer3": [["a", "c"], ["b"]], "layer4": [["a"], ["b"], ["c"]]}


@pytest.mark.parametrize(
    ("branch", "complaint"),
    [
        ({"layr3": "own"}, "layer3"),
        ({"a": "layr3"}, "layer3"),
        ({"layer3": "own", "layer4": [["a", "b"], ["c"]]}, "layer4.*a and b.*layer3"),
    ],
)
def test_a_branch_that_cannot_be_is_refused(branch: Any, complaint: str) -> None:
    with pytest.raises(StudentError, match=complaint):
        tree("test_resnet", branch)


def test_a_network_that_cannot_be_cut_is_refused_by_name() -> None:
    with pytest.raises(StudentError, match="levit_128s"):
        student("levit_128s", tasks=kinds(), branch={"a": "stages.1"}, input_size=224)


def test_a_student_in_parts_begins_as_one_in_the_same_parts(tmp_path: Path) -> None:
    old = apart(tree()[0])
    save_student(old, tmp_path / "old")
    new, trunk = tree(init=str(tmp_path / "old"))
    assert all(torch.equal(value, trunk.state_dict()[key]) for key, value in old.trunk.state_dict().items())
    assert new is not old
    with pytest.raises(StudentError, match="a and c"):
        tree("test_resnet", {"a": "layer4"}, init=str(tmp_path / "old"))


def test_the_path_of_a_task_begins_a_plain_student(tmp_path: Path) -> None:
    old = apart(tree()[0])
    save_student(old, tmp_path / "old")
    alone = student("test_resnet", tasks={"b": kinds()["b"]}, init=str(tmp_path / "old"))
    state = alone.trunk.model.state_dict()
    assert isinstance(old.trunk, SplitTrunk)
    assert all(torch.equal(value, state[key]) for key, value in old.trunk.path_state("b").items())


def test_every_part_begins_with_a_plain_student(tmp_path: Path) -> None:
    old = apart(student("test_resnet", tasks=kinds()))
    save_student(old, tmp_path / "old")
    _, trunk = tree(init=str(tmp_path / "old"))
    for task in kinds():
        state = trunk.path_state(task)
        assert all(torch.equal(value, state[key]) for key, value in old.trunk.model.state_dict().items())


def test_a_plain_student_keeps_the_version_that_older_readers_know(tmp_path: Path) -> None:
    save_student(student(), tmp_path / "plain")
    save_student(tree()[0], tmp_path / "parts")
    assert '"format_version": 1' in (tmp_path / "plain" / "config.json").read_text()
    assert '"branch"' not in (tmp_path / "plain" / "config.json").read_text()
    assert '"format_version": 2' in (tmp_path / "parts" / "config.json").read_text()


@pytest.mark.parametrize("model", BRANCHES)
def test_the_cut_gives_the_gradients_of_a_plain_backward(model: str) -> None:
    parted = apart(tree(model)[0]).train()
    whole = copy.deepcopy(parted)
    torch.manual_seed(0)
    total = sum(logits.square().mean() for logits in whole(images(4)).values())
    assert isinstance(total, Tensor)
    total.backward()
    torch.manual_seed(0)
    at_nodes = parted.trunk.cut(images(4), list(kinds()))
    losses = {task: parted.heads[task](at_nodes[task]).square().mean() for task in kinds()}
    make_rule("uniform", list(kinds())).backward(losses, at_nodes)
    others = dict(whole.named_parameters())
    for name, parameter in parted.named_parameters():
        expected = others[name].grad
        assert (parameter.grad is None) == (expected is None), name
        if parameter.grad is not None and expected is not None:
            assert torch.allclose(parameter.grad, expected, rtol=1e-4, atol=1e-7), name


def test_mgda_ub_weighs_the_tasks_of_every_shared_node() -> None:
    parted, trunk = tree()
    at_nodes = trunk.cut(images(4), list(kinds()))
    losses = {task: parted.heads[task](at_nodes[task]).square().mean() for task in kinds()}
    weights = make_rule("mgda_ub", list(kinds())).backward(losses, at_nodes)
    assert set(weights) == {"root/a", "root/b", "root/c", "a+b/a", "a+b/b"}


def test_a_plain_trunk_is_cut_at_one_place() -> None:
    assert isinstance(student().trunk.cut(images(), ["left", "part"]), Shared)
