"""Runs of students whose tasks part in the trunk, from a recipe to exported files."""

import json
import re
from pathlib import Path
from typing import Any

import forked
import pytest
import quickstart
import timm
import torch
from resuming import resumed
from rich.console import Console

from distill_mtl import distill, evaluate, export_student, load_recipe
from distill_mtl.errors import RecipeError, StudentError
from distill_mtl.students.student_folder import load_student
from distill_mtl.training.parts import Parts, build

QUIET = Console(quiet=True)
BRANCHES = "student={model: test_resnet, input_size: 16, init: random, branch: {hue: layer4}}"
TOY = 'student={model: "toy:net", init: random, branch: {hue: second}}'


RUN = (BRANCHES, "training.ema=0.9", "training.log_every=1", "balance=mgda_ub")
AUTO = 'student={model: "toy:net", init: random, branch: {auto: {budget: 2.0, by: rsa, rows: 60}}}'
FOUND = {"second": [["hue"], ["shape"]]}


@pytest.fixture(scope="module")
def finished(recipe: Path) -> Path:
    out = recipe.parent / "finished"
    distill(load_recipe(recipe, RUN), out=out, console=QUIET)
    return out


def parts(recipe: Path, *changes: str) -> Parts:
    return build(load_recipe(recipe, changes))


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_logs_weights_and_cosines_of_the_shared_part(finished: Path) -> None:
    last = lines(finished)[-1]
    assert set(last["cosines"]) == {"root/hue/shape"}
    assert "weight/root" in last["tasks"]["hue"]


def test_the_report_draws_the_parts_with_their_costs(finished: Path) -> None:
    nodes = json.loads((finished / "results.json").read_text())["cost"]["nodes"]
    assert [(name, node["parent"], node["begins"]) for name, node in nodes.items()] == [
        ("root", None, "conv1"),
        ("hue", "root", "layer4"),
        ("shape", "root", "layer4"),
    ]
    for node in nodes.values():
        assert min(node["flops"], node["parameters"], node["latency_ms"]) > 0
    assert "Parts of the trunk: root of hue and shape from conv1" in (finished / "report.html").read_text()
    for page in ("report.md", "report.html"):
        assert "└ hue" in (finished / page).read_text()


def test_a_run_that_goes_on_ends_as_one_that_was_not_interrupted(finished: Path, tmp_path: Path) -> None:
    resumed(finished, finished.parent / "toy.yaml", RUN, tmp_path / "run")


@pytest.mark.parametrize("student", [TOY, AUTO], ids=["by hand", "auto"])
def test_two_processes_equal_one(recipe: Path, tmp_path: Path, student: str) -> None:
    options = [f"--set={change}" for change in (student, "optimizer.lr=3e-4", "training.precision=fp32")]
    one = forked.run("distill", recipe, "--out", tmp_path / "one", *options)
    for ended in (one, *forked.run_two("distill", recipe, "--out", tmp_path / "two", *options)):
        assert ended.status == 0, ended.text
    if student == AUTO:
        assert "branch: second: hue | shape (auto: rsa" in one.text
    for name in ("one", "two"):
        assert load_recipe(tmp_path / name / "recipe.resolved.yaml").student.branch in (
            FOUND,
            {"hue": "second"},
        )
    ours, theirs = quickstart.weights(tmp_path / "one"), quickstart.weights(tmp_path / "two")
    assert any("hue" in name and "second" in name for name in ours)
    for name, weight in ours.items():
        assert torch.allclose(weight, theirs[name], rtol=2e-3, atol=2e-5), name


def test_a_run_that_found_its_tree_goes_on_with_it(recipe: Path, tmp_path: Path) -> None:
    distill(load_recipe(recipe, [AUTO]), out=tmp_path / "whole", console=QUIET)
    assert load_recipe(tmp_path / "whole" / "recipe.resolved.yaml").student.branch == FOUND
    resumed(tmp_path / "whole", recipe, [AUTO], tmp_path / "run")
    assert any("hue" in name and "second" in name for name in quickstart.weights(tmp_path / "run"))


def test_the_run_is_evaluated_and_loaded_as_any_other(finished: Path) -> None:
    before = json.loads((finished / "results.json").read_text())["tasks"]["hue"]["student"]
    assert evaluate(finished, console=QUIET).tasks["hue"].student == before
    answers = load_student(finished / "student")(torch.rand(2, 3, 20, 20))
    assert set(answers) == {"hue", "shape"}


@pytest.mark.parametrize("form", ["onnx", "pt2", "torchscript", "hub"])
def test_every_form_holds_the_whole_student(finished: Path, tmp_path: Path, form: str) -> None:
    export_student(finished, form, out=tmp_path / f"out.{form}", rows=8, console=QUIET)


def test_an_export_of_one_task_leaves_out_the_parts_of_the_others(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(width=200, force_terminal=False)
    whole = export_student(finished, "onnx", out=tmp_path / "whole.onnx", rows=8, console=QUIET)
    part = export_student(finished, "onnx", out=tmp_path / "hue.onnx", only="hue", rows=8, console=console)
    assert part.stat().st_size < 0.8 * whole.stat().st_size
    said = capsys.readouterr().out
    assert "left out of the trunk: shape" in said
    saved, of_all = re.search(r"saves ([\d.]+) of ([\d.]+) MFLOPs", said).groups()
    assert 0 < float(saved) < float(of_all)


def test_the_path_of_one_task_leaves_as_a_network_of_timm(finished: Path, tmp_path: Path) -> None:
    folder = export_student(finished, "timm", out=tmp_path / "hue", only="hue", rows=8, console=QUIET)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    student = load_student(finished / "student").student
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(model(student.trunk.preprocess(images)), student(images)["hue"], atol=1e-5)


def test_a_whole_student_in_parts_is_no_network_of_timm(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(StudentError, match="--only"):
        export_student(finished, "timm", out=tmp_path / "whole", rows=8, console=QUIET)


def test_a_task_of_it_teaches_and_begins_another_student(finished: Path, recipe: Path) -> None:
    changes = (
        "student={model: test_resnet, input_size: 16, init: teacher:hue}",
        f"tasks.hue.teacher.path={finished / 'student'}",
    )
    begun = parts(recipe, *changes).student.trunk.model.state_dict()
    old = load_student(finished / "student").student.trunk.model.state_dict()
    assert torch.equal(begun["layer4.0.conv1.weight"], old["hue.layer4.0.conv1.weight"])
    assert torch.equal(begun["conv1.0.weight"], old["root.conv1.0.weight"])


def test_a_stage_of_a_schedule_can_train_one_part(recipe: Path) -> None:
    built = parts(recipe, TOY, "schedule=[{until: 0.5, train: ['trunk:hue', 'heads']}, {}]")
    trained = built.schedule.stages[0].trains
    assert trained is not None
    assert any(name.startswith("student.trunk.model.hue.") for name in trained)
    assert not any(
        name.startswith(("student.trunk.model.root.", "student.trunk.model.shape.")) for name in trained
    )


def test_hints_guide_the_path_of_their_own_task(recipe: Path) -> None:
    changes = (TOY, "tasks.shape.hints=[]", "schedule=fitnets")
    trained = parts(recipe, *changes).schedule.stages[0].trains
    assert trained is not None
    assert any(name.startswith("student.trunk.model.hue.") for name in trained)
    assert not any(name.startswith("student.trunk.model.shape.") for name in trained)


@pytest.mark.parametrize("method", ["uniform", "uncertainty", "gradnorm", "mgda", "mgda_ub"])
def test_rules_train_a_student_in_parts(recipe: Path, tmp_path: Path, method: str) -> None:
    changes = (TOY, f"balance={method}", "training.steps=2", "training.log_every=1")
    distill(load_recipe(recipe, changes), out=tmp_path / "run", console=QUIET)


def test_bf16_and_asynchronous_parts_and_a_self_teacher(recipe: Path, tmp_path: Path) -> None:
    changes = (
        TOY,
        "training.precision=bf16",
        "training.asynchronous={trunk: 12, heads: 6}",
        "tasks.shape.teacher={student: frozen, every: 2}",
        "tasks.shape.classes=2",
    )
    distill(load_recipe(recipe, changes), out=tmp_path / "run", console=QUIET)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("student.branch={hue: second, hu: second}", r"student\.branch.*'hu'.*hue"),
        ("student.branch={second: [[hue]]}", r"student\.branch\.second.*shape is in no group"),
        (
            "student.branch={second: [[hue, shape], [shape]]}",
            r"student\.branch\.second.*shape is in 2 groups",
        ),
        ("student.branch={second: [[hue], [shape, x]]}", r"student\.branch\.second.*'x'"),
        ("student.branch={second: own, hue: second}", r"student\.branch\.hue.*own"),
        ("student.branch={}", r"student\.branch"),
    ],
)
def test_branches_that_make_no_sense_are_refused(recipe: Path, change: str, complaint: str) -> None:
    with pytest.raises(RecipeError, match=f"(?s){complaint}"):
        load_recipe(recipe, [change])


def test_no_task_is_called_as_the_part_of_all_tasks(recipe: Path) -> None:
    changes = ["tasks.root={classes: 2, data: {shards: root.tar}}", "student.branch={hue: second}"]
    with pytest.raises(RecipeError, match=r"tasks\.root"):
        load_recipe(recipe, changes)


def test_a_task_alone_has_no_one_to_leave(recipe: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.yaml"
    alone.write_text(
        "student: {model: resnet18, branch: {hue: layer4}}\n"
        "tasks: {hue: {classes: 2, data: {shards: hue.tar}}}\n"
    )
    with pytest.raises(RecipeError, match=r"student\.branch:\s+there is one task"):
        load_recipe(alone)


def test_a_stage_that_does_not_exist_names_the_nearest(recipe: Path) -> None:
    with pytest.raises(StudentError, match=r"student\.branch.*'secnd'.*'second'"):
        parts(recipe, "student.branch={hue: secnd}")


def test_mgda_ub_is_refused_where_no_two_tasks_share_a_part(recipe: Path) -> None:
    with pytest.raises(RecipeError, match=r"balance\.method.*mgda_ub"):
        parts(recipe, "student.branch={first: own}", "balance=mgda_ub")
    assert "uniform" in parts(recipe, "student.branch={first: own}").balance
