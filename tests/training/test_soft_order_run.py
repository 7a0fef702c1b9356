"""Runs of students whose tasks mix blocks in orders of their own, from a recipe to exported files."""

import json
from pathlib import Path

import forked
import pytest
import quickstart
import torch
from resuming import resumed
from rich.console import Console

from distill_mtl import distill, export_student, load_recipe
from distill_mtl.errors import RecipeError, StudentError
from distill_mtl.students.student_folder import load_student
from distill_mtl.training.parts import build

QUIET = Console(quiet=True)
SOFT = "student={model: test_vit, args: {depth: 3}, input_size: 32, init: random, order: soft}"


@pytest.fixture(scope="module")
def finished(recipe: Path) -> Path:
    out = recipe.parent / "finished"
    distill(load_recipe(recipe, [SOFT, "tasks.hue.hints=[{student: blocks.1}]"]), out=out, console=QUIET)
    return out


def test_orders_are_trained_and_the_report_has_their_costs(finished: Path) -> None:
    weights = quickstart.weights(finished)
    hue, shape = weights["trunk.model.hue.order"], weights["trunk.model.shape.order"]
    assert not torch.equal(hue, shape)
    nodes = json.loads((finished / "results.json").read_text())["cost"]["nodes"]
    assert list(nodes) == ["root", "hue", "shape"]
    assert (
        "Parts of the trunk: root of hue and shape from patch_embed" in (finished / "report.html").read_text()
    )
    assert set(load_student(finished / "student")(torch.rand(2, 3, 20, 20))) == {"hue", "shape"}


def test_a_run_that_goes_on_ends_as_one_that_was_not_interrupted(finished: Path, tmp_path: Path) -> None:
    changes = [SOFT, "tasks.hue.hints=[{student: blocks.1}]"]
    resumed(finished, finished.parent / "toy.yaml", changes, tmp_path / "run")


def test_two_processes_equal_one(recipe: Path, tmp_path: Path) -> None:
    options = [f"--set={change}" for change in (SOFT, "optimizer={name: adamw, lr: 3e-4}")]
    one = forked.run("distill", recipe, "--out", tmp_path / "one", *options)
    for ended in (one, *forked.run_two("distill", recipe, "--out", tmp_path / "two", *options)):
        assert ended.status == 0, ended.text
    ours, theirs = quickstart.weights(tmp_path / "one"), quickstart.weights(tmp_path / "two")
    for name, weight in ours.items():
        assert torch.allclose(weight, theirs[name], rtol=2e-3, atol=2e-5), name


def test_it_trains_in_bf16(recipe: Path, tmp_path: Path) -> None:
    distill(load_recipe(recipe, [SOFT, "training.precision=bf16"]), out=tmp_path / "run", console=QUIET)
    assert all(value.isfinite().all() for value in quickstart.weights(tmp_path / "run").values())


@pytest.mark.parametrize("form", ["onnx", "pt2"])
def test_graphs_hold_it(finished: Path, tmp_path: Path, form: str) -> None:
    export_student(finished, form, out=tmp_path / f"out.{form}", rows=8, console=QUIET)


@pytest.mark.parametrize("only", [None, "hue"])
def test_it_is_no_network_of_timm(finished: Path, tmp_path: Path, only: str | None) -> None:
    with pytest.raises(StudentError, match="in an order of its own, and no network of timm does"):
        export_student(finished, "timm", out=tmp_path / "out", only=only, rows=8, console=QUIET)


def test_tasks_share_no_feature_to_compare_gradients_at(recipe: Path) -> None:
    with pytest.raises(RecipeError, match=r"mgda_ub compares .* student\.order no two do.* or `mgda`"):
        build(load_recipe(recipe, [SOFT, "balance=mgda_ub"]))
    assert "balance: mgda (auto: no two tasks read the same" in build(load_recipe(recipe, [SOFT])).balance


def test_mgda_weighs_the_common_blocks(recipe: Path, tmp_path: Path) -> None:
    distill(
        load_recipe(recipe, [SOFT, "balance=mgda", "training.log_every=1"]),
        out=tmp_path / "run",
        console=QUIET,
    )
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert sum(task["weight"] for task in last["tasks"].values()) > 0


def test_a_task_of_it_is_a_teacher(finished: Path, recipe: Path) -> None:
    changes = [f"tasks.hue.teacher.path={finished / 'student'}"]
    teacher = build(load_recipe(recipe, changes)).teachers["hue"]
    images, student = torch.rand(2, 3, 32, 32), load_student(finished / "student").student
    with torch.no_grad():
        assert torch.allclose(teacher(images).logits, student(images)["hue"], atol=1e-5)


def test_another_student_cannot_begin_with_a_mixture(finished: Path, recipe: Path) -> None:
    changes = [
        f"student={{model: test_vit, args: {{depth: 3}}, input_size: 32, init: {finished}, branch: {{hue: blocks.2}}}}"
    ]
    with pytest.raises(StudentError, match="order"):
        build(load_recipe(recipe, changes))
