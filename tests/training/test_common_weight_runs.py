"""Runs of students with private layers, or own encoders, from a recipe to exported files."""

import json
from pathlib import Path

import forked
import pytest
import quickstart
import timm
import torch
from resuming import resumed
from rich.console import Console

from distill_mtl import distill, export_student, load_recipe
from distill_mtl.errors import RecipeError, StudentError
from distill_mtl.students.student_folder import load_student
from distill_mtl.training.parts import Parts, build

QUIET = Console(quiet=True)
PRIVATE = "student={model: test_resnet, input_size: 16, init: random, private: {norms: [layer4], adapters: [layer4]}}"
ADAPTERS = 'student={model: "toy:net", init: random, private: {adapters: [second], kind: series}}'
ENCODERS = (
    'student={model: "toy:net", init: random, encoders: {groups: {x: [hue], y: [shape]}, until: second}}'
)
RUN = (PRIVATE, "training.ema=0.9", "training.log_every=1", "balance=mgda_ub")


@pytest.fixture(scope="module")
def finished(recipe: Path) -> Path:
    out = recipe.parent / "finished"
    distill(load_recipe(recipe, RUN), out=out, console=QUIET)
    return out


def parts(recipe: Path, *changes: str) -> Parts:
    return build(load_recipe(recipe, changes))


def test_costs_count_common_weights_once_and_every_computation(finished: Path) -> None:
    nodes = json.loads((finished / "results.json").read_text())["cost"]["nodes"]
    assert [(name, node["parent"], node["begins"]) for name, node in nodes.items()] == [
        ("root", None, "conv1"),
        ("hue", "root", "layer4"),
        ("shape", "root", "layer4"),
    ]
    student = load_student(finished / "student").student
    assert sum(node["parameters"] for node in nodes.values()) == sum(
        value.numel() for value in student.trunk.parameters()
    )
    assert nodes["hue"]["flops"] == nodes["shape"]["flops"] > 0
    assert "└ hue" in (finished / "report.md").read_text()


def test_a_run_that_goes_on_ends_as_one_that_was_not_interrupted(finished: Path, tmp_path: Path) -> None:
    resumed(finished, finished.parent / "toy.yaml", RUN, tmp_path / "run")


@pytest.mark.parametrize("shape", [ADAPTERS, ENCODERS])
def test_two_processes_equal_one(recipe: Path, tmp_path: Path, shape: str) -> None:
    options = [f"--set={change}" for change in (shape, "optimizer.lr=3e-4", "balance=mgda")]
    one = forked.run("distill", recipe, "--out", tmp_path / "one", *options)
    for ended in (one, *forked.run_two("distill", recipe, "--out", tmp_path / "two", *options)):
        assert ended.status == 0, ended.text
    ours, theirs = quickstart.weights(tmp_path / "one"), quickstart.weights(tmp_path / "two")
    for name, weight in ours.items():
        assert torch.allclose(weight, theirs[name], rtol=2e-3, atol=2e-5), name


@pytest.mark.parametrize("form", ["onnx", "pt2", "torchscript"])
def test_graphs_hold_common_weights_once(finished: Path, tmp_path: Path, form: str) -> None:
    whole = export_student(finished, form, out=tmp_path / f"whole.{form}", rows=8, console=QUIET)
    part = export_student(finished, form, out=tmp_path / f"hue.{form}", only="hue", rows=8, console=QUIET)
    assert whole.stat().st_size < 1.4 * part.stat().st_size


def test_the_path_of_one_task_leaves_as_a_network_of_timm(finished: Path, tmp_path: Path) -> None:
    folder = export_student(finished, "timm", out=tmp_path / "hue", only="hue", rows=8, console=QUIET)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    student = load_student(finished / "student").student
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(model(student.trunk.preprocess(images)), student(images)["hue"], atol=1e-4)
    with pytest.raises(StudentError, match="--only"):
        export_student(finished, "timm", out=tmp_path / "whole", rows=8, console=QUIET)


def test_a_finished_student_begins_another_of_its_shape(finished: Path, recipe: Path) -> None:
    begun = parts(recipe, f"student={{init: {finished / 'student'}}}").student
    old = load_student(finished / "student").student
    assert begun.trunk.layout == old.trunk.layout
    assert all(torch.equal(value, begun.state_dict()[key]) for key, value in old.state_dict().items())


@pytest.mark.parametrize("shape", [ADAPTERS, ENCODERS])
def test_bf16_and_asynchronous_parts_and_a_self_teacher(recipe: Path, tmp_path: Path, shape: str) -> None:
    changes = (
        shape,
        "training.precision=bf16",
        "training.asynchronous={trunk: 12, heads: 6}",
        "tasks.shape.teacher={student: frozen, every: 2}",
        "tasks.shape.classes=2",
    )
    distill(load_recipe(recipe, changes), out=tmp_path / "run", console=QUIET)


@pytest.mark.parametrize("method", ["uniform", "uncertainty", "mgda"])
def test_rules_train_own_encoders(recipe: Path, tmp_path: Path, method: str) -> None:
    changes = (ENCODERS, f"balance={method}", "training.steps=2", "training.log_every=1")
    distill(load_recipe(recipe, changes), out=tmp_path / "run", console=QUIET)


def test_the_rule_follows_from_the_shape(recipe: Path) -> None:
    assert "mgda_ub (auto" in parts(recipe, ADAPTERS).balance
    assert "mgda (auto: no two tasks read the same features" in parts(recipe, ENCODERS).balance
    for method in ("mgda_ub", "gradnorm"):
        with pytest.raises(RecipeError, match=rf"{method}.*student\.encoders.*`mgda`"):
            parts(recipe, ENCODERS, f"balance={method}")


def test_hints_and_schedules_name_layers_of_the_own_path(recipe: Path) -> None:
    changes = (ADAPTERS, "tasks.shape.hints=[]", "schedule=fitnets")
    trained = parts(recipe, *changes).schedule.stages[0].trains
    assert trained is not None
    assert any(name.startswith("student.trunk.model.root.second.") for name in trained)
    assert any(name.startswith("student.trunk.model.hue.") for name in trained)
    assert not any(name.startswith("student.trunk.model.shape.") for name in trained)
    assert parts(recipe, ENCODERS, "schedule=[{until: 0.5, train: ['trunk:x', 'heads']}, {}]").schedule


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("{private: {norms: all}, branch: {hue: second}}", r"student\.private.*one shape.*branch"),
        ("{private: {}}", r"student\.private.*neither"),
        ("{private: {norms: [second], kind: series}}", r"student\.private\.kind.*adapters"),
        ("{private: {norms: []}}", r"student\.private\.norms"),
        ("{encoders: {x: [hue], y: [shap]}}", r"student\.encoders\.y.*'shap'.*shape"),
        ("{encoders: {x: [hue], y: [hue, shape]}}", r"student\.encoders.*hue is in 2 groups"),
        ("{encoders: {x: [hue], y: [hue]}}", r"student\.encoders.*shape is in no group"),
        ("{encoders: {x: [hue, shape]}}", r"student\.encoders"),
        ("{encoders: {root: [hue], y: [shape]}}", r"student\.encoders.*root.*another name"),
        ("{init: zip, private: {norms: all}}", r"student\.init.*zip"),
    ],
)
def test_shapes_that_make_no_sense_are_refused(recipe: Path, change: str, complaint: str) -> None:
    with pytest.raises(RecipeError, match=f"(?s){complaint}"):
        load_recipe(recipe, [f"student={change[0]}model: test_resnet, {change[1:]}"])


def test_a_task_alone_has_no_one_to_share_with(recipe: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.yaml"
    alone.write_text(
        "student: {model: resnet18, private: {norms: all}}\n"
        "tasks: {hue: {classes: 2, data: {shards: hue.tar}}}\n"
    )
    with pytest.raises(RecipeError, match=r"student\.private:\s+there is one task"):
        load_recipe(alone)
