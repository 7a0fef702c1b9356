"""Students whose tasks have common weights and something of their own: private layers, own encoders."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from student_toys import student
from student_toys import three_kinds as kinds
from torch import Tensor, nn

from distill_mtl.balance import Tree, make_rule
from distill_mtl.balance.min_norm import solve
from distill_mtl.distillation.stages import named_parameters, only_train
from distill_mtl.errors import StudentError
from distill_mtl.students.parted import PartedTrunk
from distill_mtl.students.student import Body, Student
from distill_mtl.students.student_folder import load_student, save_student

LAYOUTS: dict[str, dict[str, Any]] = {
    "norms": {"private": {"norms": ["layer3", "layer4"]}},
    "all_norms": {"private": {"norms": "all"}},
    "series": {"private": {"adapters": ["layer4"], "kind": "series"}},
    "parallel": {"private": {"adapters": ["layer3", "layer4"], "norms": ["layer3"]}},
    "encoders": {"encoders": {"x": ["a"], "y": ["b", "c"]}},
}
FOLDED = ("series", "parallel")
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


def shared(layout: str, model: str = "test_resnet", **keys: Any) -> tuple[Student, PartedTrunk]:
    found = student(model, tasks=kinds(), input_size=32, **LAYOUTS[layout], **keys)
    assert isinstance(found.trunk, PartedTrunk)
    return found, found.trunk


def apart(found: Student) -> Student:
    """The same with weights and statistics that differ from part to part."""
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (*found.parameters(), *found.trunk.model.buffers()):
            if tensor.is_floating_point():
                tensor.add_(0.02 * torch.rand(tensor.shape, generator=noise))
    return found


def images(rows: int = 2) -> Tensor:
    return torch.rand(rows, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def square_losses(found: Student, cut: Any) -> dict[str, Tensor]:
    return {task: found.heads[task](cut[task]).square().mean() for task in found.kinds}


@every_layout
def test_every_task_begins_with_the_bits_of_the_plain_trunk(layout: str) -> None:
    parted, trunk = shared(layout)
    plain = student("test_resnet", tasks=kinds(), input_size=32)
    for training in (False, True):
        features, expected = trunk.train(training)(images()), plain.trunk.train(training)(images())
        for task in kinds():
            for layer, feature in trunk.of(task, features).items():
                assert torch.equal(feature, expected[layer])
    assert parted.trunk.shapes == plain.trunk.shapes


@pytest.mark.parametrize(
    ("model", "size", "norms"),
    [
        ("eva02_tiny_patch14_224", 56, "all"),
        ("eva02_tiny_patch14_224", 56, ["blocks.10"]),
        ("swin_tiny_patch4_window7_224", 224, ["layers.3"]),
    ],
)
def test_tables_that_no_file_holds_stay_with_the_stages_before_private_layers(
    model: str, size: int, norms: Any
) -> None:
    """Of rotary positions, and of which two places of a window are how far apart."""
    found = student(model, tasks=kinds(), input_size=size, private={"norms": norms}, init="random")
    plain = student(model, tasks=kinds(), input_size=size)
    rows = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features, expected = found.trunk(rows), plain.trunk(rows)
    for task in kinds():
        for layer, feature in found.trunk.of(task, features).items():
            assert torch.equal(feature, expected[layer])


@every_layout
def test_each_parameter_has_one_part_and_one_place_in_the_file(layout: str, tmp_path: Path) -> None:
    parted, trunk = shared(layout)
    owned = [name for part in trunk.parts for name in trunk.owned(part)]
    assert sorted(owned) == sorted(dict(trunk.named_parameters()))
    save_student(apart(parted), tmp_path / "student")
    saved = load_file(tmp_path / "student" / "model.safetensors")
    heads = sum(value.numel() for value in parted.heads.state_dict().values())
    buffers = sum(value.numel() for value in trunk.model.buffers())
    parameters = sum(value.numel() for value in trunk.parameters())
    assert sum(value.numel() for value in saved.values()) == heads + buffers + parameters
    loaded = load_student(tmp_path / "student").student
    assert loaded.trunk.layout == trunk.layout
    with torch.no_grad():
        expected, found = parted(images()), loaded(images())
    assert all(torch.equal(expected[task], found[task]) for task in expected)


@every_layout
def test_a_copy_shares_its_own_weights_as_the_original_does(layout: str) -> None:
    parted, _ = shared(layout)
    twin = copy.deepcopy(parted)
    assert len([*twin.parameters()]) == len([*parted.parameters()])
    assert {id(p) for p in twin.parameters()}.isdisjoint(id(p) for p in parted.parameters())
    twin.load_state_dict(apart(copy.deepcopy(parted)).state_dict())
    assert len([*twin.to(torch.float64).parameters()]) == len([*parted.parameters()])


@pytest.mark.parametrize("tasks", [["a"], ["b", "c"]])
@every_layout
def test_the_part_for_some_tasks_gives_the_same_features(layout: str, tasks: list[str]) -> None:
    parted, trunk = shared(layout)
    apart(parted)
    part = trunk.only(tasks)
    assert bool(part.layout) == (len(tasks) > 1 and layout != "encoders")
    with torch.no_grad():
        expected, found = trunk(images()), part(images())
    for task in tasks:
        for layer, feature in part.of(task, found).items():
            whole = trunk.of(task, expected)[layer]
            if layout in FOLDED and not part.layout:
                # The stage before its own norms takes an adapter's output as it is; rounding alone may differ.
                assert torch.allclose(feature, whole, rtol=1e-4, atol=1e-4)
            else:
                assert torch.equal(feature, whole)


@every_layout
def test_the_path_of_a_task_is_a_network_of_timm(layout: str) -> None:
    parted, trunk = shared(layout)
    apart(parted)
    model: Any = timm.create_model("test_resnet", num_classes=0)
    model.load_state_dict(trunk.path_state("c"), strict=True)
    with torch.no_grad():
        pooled = model.eval()(trunk.preprocess(images()))
        trunk.tap(["pooled"])
        assert torch.allclose(trunk.of("c", trunk(images()))["pooled"], pooled, rtol=1e-4, atol=1e-4)


@every_layout
def test_the_cut_gives_the_gradients_of_a_plain_backward(layout: str) -> None:
    parted = apart(shared(layout)[0]).train()
    whole = copy.deepcopy(parted)
    torch.stack([logits.square().mean() for logits in whole(images(4)).values()]).sum().backward()
    cut = parted.trunk.cut(images(4), list(kinds()))
    make_rule("uniform", list(kinds())).backward(square_losses(parted, cut), cut)
    for (name, ours), theirs in zip(parted.named_parameters(), whole.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is not None and theirs.grad is not None:
            assert torch.allclose(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6), name


@every_layout
def test_a_task_moves_what_is_common_and_its_own_and_nothing_of_another(layout: str) -> None:
    parted, trunk = shared(layout)
    apart(parted)(images())["a"].square().mean().backward()
    moved = {
        part
        for part in trunk.parts
        if any(value.grad is not None and bool(value.grad.any()) for value in trunk.owned(part).values())
    }
    assert moved == {part for part, tasks in trunk.parts.items() if "a" in tasks}


@every_layout
def test_running_statistics_are_those_of_each_computation(layout: str) -> None:
    _, trunk = shared(layout)
    trunk.train()(images(4))
    for node in trunk.nodes:
        norms = [m for m in trunk.model[node.name].modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms
        assert all(norm.num_batches_tracked == 1 for norm in norms if norm.num_batches_tracked is not None)


@pytest.mark.parametrize("layout", ["all_norms", "encoders", "norms"])
def test_mgda_balances_what_tasks_have_in_common_behind_the_cut(layout: str) -> None:
    parted, trunk = shared(layout)
    reference = copy.deepcopy(parted)
    names = dict.fromkeys(kinds())
    cut = trunk.cut(images(4), list(names))
    assert isinstance(cut, Tree)
    weights = make_rule("mgda", list(names), normalize="none", scale=1.0).backward(
        square_losses(parted, cut), cut
    )
    body: Any = reference.trunk
    common = body.in_common()
    losses = {task: logits.square().mean() for task, logits in reference(images(4)).items()}
    gradients = {
        task: torch.autograd.grad(loss, common, retain_graph=True, allow_unused=True, materialize_grads=True)
        for task, loss in losses.items()
    }
    flat = torch.stack([torch.cat([g.flatten() for g in found]) for found in gradients.values()]).double()
    expected = solve(flat @ flat.T).weights
    at_common = [w for name, w in weights.items() if name.startswith("common/") or not trunk.compares]
    assert at_common == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-5)
    for mine, *theirs in zip(trunk.in_common(), *gradients.values(), strict=True):
        mixed = sum(w * g for w, g in zip(at_common, theirs, strict=True))
        assert mine.grad is not None
        assert torch.allclose(mine.grad, torch.as_tensor(mixed), rtol=1e-3, atol=1e-6)


def test_mgda_ub_weighs_the_stages_before_the_first_private_one() -> None:
    parted, trunk = shared("norms")
    cut = trunk.cut(images(4), list(kinds()))
    weights = make_rule("mgda_ub", list(kinds())).backward(square_losses(parted, cut), cut)
    assert set(weights) == {"root/a", "root/b", "root/c"}
    assert [(node.name, node.parent) for node in trunk.nodes][:2] == [("root", None), ("a", "root")]


@pytest.mark.parametrize("layout", ["all_norms", "encoders"])
def test_bodies_whose_tasks_read_no_common_tensor_compare_nothing(layout: str) -> None:
    _, trunk = shared(layout)
    cut = trunk.cut(images(), list(kinds()))
    assert not trunk.compares
    assert isinstance(cut, Tree)
    assert not cut.nodes
    assert {id(p) for p in trunk.beyond_cut()} >= {id(p) for p in trunk.in_common()}


def test_common_parameters_train_with_the_part_of_all_tasks() -> None:
    parted, trunk = shared("norms")
    only_train(parted, named_parameters(parted, {}, "trunk:a"), "student.")
    assert trunk.model["a"].training
    assert not any(module.training for module in trunk.model["b"].modules())
    names = named_parameters(parted, {}, "trunk:root")
    assert "student.trunk.model.root.layer4.0.conv1.weight" in names
    assert not any("bn" in name for name in names if ".layer4." in name)


@every_layout
def test_every_part_begins_with_a_plain_student(layout: str, tmp_path: Path) -> None:
    old = apart(student("test_resnet", tasks=kinds(), input_size=32))
    save_student(old, tmp_path / "old")
    parted, trunk = shared(layout, init=str(tmp_path / "old"))
    state = old.trunk.model.state_dict()
    for task in kinds():
        assert all(torch.equal(value, state[key]) for key, value in trunk.path_state(task).items())
    save_student(apart(parted), tmp_path / "parted")
    again = shared(layout, init=str(tmp_path / "parted"))[1]
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in trunk.state_dict().items())


def test_tokens_and_grouped_convolutions_have_private_norms_too() -> None:
    plain: Body
    for model, stages in (("test_vit", ["blocks.3", "norm"]), ("test_convnext", ["stages.2"])):
        keys = {"tasks": kinds(), "input_size": None}
        trunk = student(model, private={"norms": stages}, **keys).trunk
        plain = student(model, **keys).trunk
        picture = torch.rand(1, 3, *plain.inputs.size)
        with torch.no_grad():
            features, expected = trunk(picture), plain(picture)
        assert all(torch.equal(value, expected[key]) for key, value in trunk.of("b", features).items())
        assert 0 < len(trunk.owned("b")) < len(trunk.owned("root"))


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"private": {"norms": ["layr3"]}}, "student.private: .*layer3"),
        ({"private": {"norms": ["act1"]}}, "norms: act1 has no normalisation layer.*layer1"),
        ({"private": {"adapters": ["bn1"]}}, "adapters: bn1 has no convolution.*layer2"),
        ({"encoders": {"groups": {"x": ["a"], "y": ["b", "c"]}, "until": "layr1"}}, "encoders: .*layer1"),
        (
            {"encoders": {"groups": {"x": ["a"], "y": ["b", "c"]}, "until": "conv1"}},
            "conv1 is the first step",
        ),
        ({"encoders": {"pop": ["a"], "y": ["b", "c"]}}, "keeps the name 'pop'"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(keys: dict[str, Any], complaint: str) -> None:
    with pytest.raises(StudentError, match=complaint):
        student("test_resnet", tasks=kinds(), input_size=32, **keys)


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"private": {"norms": 3}}, "private"),
        ({"private": {"kind": "series"}}, "neither norms nor adapters"),
        ({"encoders": {"groups": {"x": ["a"], "y": ["b"]}, "until": "layer1"}}, "c is in no group"),
        ({"branch": {"layer3": [["a"], ["b"]]}}, "c is in no group"),
        ({"branch": {"layer3": [["a"], ["b", "c"]]}, "private": {"norms": "all"}}, "one shape"),
    ],
)
def test_a_described_shape_that_is_none_is_refused(
    entry: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    save_student(student("test_resnet", tasks=kinds(), input_size=32), tmp_path / "student")
    file = tmp_path / "student" / "config.json"
    config = json.loads(file.read_text())
    config["trunk"] |= entry
    file.write_text(json.dumps(config))
    with pytest.raises(StudentError, match=complaint):
        load_student(tmp_path / "student")
