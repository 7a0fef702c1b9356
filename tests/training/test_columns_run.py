"""Runs of students of columns, from a recipe to exported files."""

import json
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
from distill_mtl.distillation.objective import Objective
from distill_mtl.errors import RecipeError, StudentError, UserError
from distill_mtl.networks.weights import read_weights
from distill_mtl.students.student_folder import load_student
from distill_mtl.training.asynchronous import Asynchronous
from distill_mtl.training.optimizer import build_optimizer, settle_optimizer
from distill_mtl.training.parts import Parts, build

QUIET = Console(quiet=True)
COLUMNS = "student={model: test_resnet, input_size: 16, init: random, columns: cross_stitch}"
TOY = 'student={model: "toy:net", init: random, columns: {kind: cross_stitch, after: [first, second]}}'
AVERAGED = ("training.ema=0.9", "training.log_every=1")
OLD_TASKS = ("hue", "shape")

SECOND = """
student: {init: FOLDER/finished, columns: progressive}
tasks:
  hue:
    teacher: {path: FOLDER/finished, precision: fp32, expect: 0}
    data: {split: {test: FOLDER/hue-test.tar}}
  shape:
    kind: segmentation
    teacher: {path: FOLDER/finished, precision: fp32, expect: 0}
    data: {split: {test: FOLDER/shape-test.tar}}
  tone:
    teacher: {path: FOLDER/teachers/hue, task: hue, expect: 0, precision: fp32}
    data: {shards: FOLDER/hue-train.tar, split: {validation: FOLDER/hue-validation.tar, test: FOLDER/hue-test.tar}}
training: {steps: 6, batch_size: 12, log_every: 2, precision: fp32, checkpoint_every: 3, ema: 0.9}
evaluation: {bootstrap: 100}
acceptance: 100
"""


@pytest.fixture(scope="module")
def stitched(recipe: Path) -> Path:
    out = recipe.parent / "stitched"
    distill(load_recipe(recipe, (COLUMNS, *AVERAGED)), out=out, console=QUIET)
    return out


@pytest.fixture(scope="module")
def second(recipe: Path) -> Path:
    """The recipe that adds a column beside a finished run of BatchNorm networks."""
    plain = "student={model: test_resnet, input_size: 16, init: random}"
    distill(load_recipe(recipe, (plain,)), out=recipe.parent / "finished", console=QUIET)
    path = recipe.parent / "second.yaml"
    path.write_text(SECOND.replace("FOLDER", str(recipe.parent)))
    return path


@pytest.fixture(scope="module")
def grown(second: Path) -> Path:
    distill(load_recipe(second), out=second.parent / "grown", console=QUIET)
    return second.parent / "grown"


def parts(recipe: Path, *changes: str) -> Parts:
    return build(load_recipe(recipe, changes))


def answers(run: Path, images: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        given: dict[str, torch.Tensor] = load_student(run / "student").student(images)
        return given


def pictures(rows: int = 8) -> torch.Tensor:
    return torch.rand(rows, 3, 16, 16, generator=torch.Generator().manual_seed(0))


# Coupled columns ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cross_stitch", "nddr", "sluice"])
def test_balance_is_the_plain_sum_and_mgda_ub_is_refused(recipe: Path, kind: str) -> None:
    changes = (COLUMNS.replace("cross_stitch", kind),)
    assert parts(recipe, *changes).balance.startswith("balance: uniform (auto: no two tasks")
    with pytest.raises(RecipeError, match="mgda_ub compares .*columns.*`mgda`"):
        parts(recipe, *changes, "balance=mgda_ub")


def test_full_mgda_weighs_the_parameters_that_tasks_have_in_common(recipe: Path) -> None:
    out = recipe.parent / "mgda"
    changes = (COLUMNS, "balance=mgda", "training.steps=2", "training.log_every=1")
    distill(load_recipe(recipe, changes), out=out, console=QUIET)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert set(lines[-1]["cosines"]) == {"hue/shape"}


def test_the_report_has_a_row_for_each_column(stitched: Path) -> None:
    nodes = json.loads((stitched / "results.json").read_text())["cost"]["nodes"]
    assert [(name, node["parent"], node["tasks"]) for name, node in nodes.items()] == [
        ("hue", None, ["hue"]),
        ("shape", None, ["shape"]),
    ]
    assert nodes["hue"]["flops"] > 0
    before = json.loads((stitched / "results.json").read_text())["tasks"]["hue"]["student"]
    assert evaluate(stitched, console=QUIET).tasks["hue"].student == before


def test_units_have_a_rate_of_their_own_with_sgd_and_no_decay(recipe: Path) -> None:
    built = parts(recipe, COLUMNS, "optimizer={name: sgd, lr: 0.01}")
    objective = Objective(built.student, built.loss_configs, built.terms, built.rule)
    units = {id(parameter) for parameter in built.student.trunk.units()}
    for name, factor in (("sgd", 100.0), ("adamw", 1.0), ("muon", 1.0)):
        section = built.recipe.optimizer.model_copy(update={"name": name})
        changed = built.recipe.model_copy(update={"optimizer": section})
        optimizer = build_optimizer(objective, settle_optimizer(changed, built.student.trunk).optimizer)
        groups = [g for g in optimizer.param_groups if {id(p) for p in g["params"]} & units]
        assert all({id(p) for p in group["params"]} <= units for group in groups)
        assert all(group["factor"] == factor and group["weight_decay"] == 0 for group in groups)
        assert name != "muon" or all(group["use_fallback"] for group in groups)


def test_a_run_of_columns_that_goes_on_ends_as_one_that_was_not_interrupted(
    stitched: Path, recipe: Path, tmp_path: Path
) -> None:
    resumed(stitched, recipe, (COLUMNS, *AVERAGED), tmp_path / "run")


def test_two_processes_equal_one(recipe: Path, tmp_path: Path) -> None:
    options = [f"--set={change}" for change in (TOY, "optimizer.lr=3e-4", "training.precision=fp32")]
    one = forked.run("distill", recipe, "--out", tmp_path / "one", *options)
    for ended in (one, *forked.run_two("distill", recipe, "--out", tmp_path / "two", *options)):
        assert ended.status == 0, ended.text
    ours, theirs = quickstart.weights(tmp_path / "one"), quickstart.weights(tmp_path / "two")
    assert any(name.endswith(".alpha") for name in ours)
    for name, weight in ours.items():
        assert torch.allclose(weight, theirs[name], rtol=2e-3, atol=2e-5), name


@pytest.mark.parametrize(
    "changes",
    [
        ("training.asynchronous={trunk: 20, heads: 12}",),
        (TOY, "training.precision=bf16"),
        ("optimizer.name=muon", "optimizer.lr=0.01"),
        ("tasks.hue.teacher=self", "tasks.hue.classes=[class0, class1, class2]"),
        ('schedule=[{until: 2, train: ["trunk:hue", heads]}, {}]',),
    ],
)
def test_what_a_trunk_can_do_columns_can(recipe: Path, tmp_path: Path, changes: tuple[str, ...]) -> None:
    distill(load_recipe(recipe, (COLUMNS, "training.steps=4", *changes)), out=tmp_path / "run", console=QUIET)
    assert set(answers(tmp_path / "run", pictures())) == {"hue", "shape"}


@pytest.mark.parametrize("form", ["onnx", "pt2"])
def test_every_form_holds_all_columns(stitched: Path, tmp_path: Path, form: str) -> None:
    export_student(stitched, form, out=tmp_path / f"out.{form}", rows=8, console=QUIET)


def test_of_coupled_columns_nothing_can_be_left_out(
    stitched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(width=200, force_terminal=False)
    export_student(stitched, "torchscript", out=tmp_path / "h.ts", only="hue", rows=8, console=console)
    assert "all columns stay: hue reads the others" in capsys.readouterr().out
    with pytest.raises(StudentError, match="column of hue reads the others"):
        export_student(stitched, "timm", out=tmp_path / "hue", only="hue", rows=8, console=QUIET)
    with pytest.raises(StudentError, match="column of hue reads the others"):
        export_student(stitched, "timm", out=tmp_path / "whole", rows=8, console=QUIET)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("columns: progressive", "progressive.*init: runs/OLD"),
        ("columns: cross_stich", "cross_stitch"),
        ("columns: {kind: cross_stitch, own: 1.5}", "own"),
        ("columns: {kind: nddr, subspaces: 4}", "subspaces.*sluice"),
        ("columns: sluice, branch: {hue: layer4}", "one shape"),
        ("columns: sluice, init: zip", "zip merges.*teachers"),
    ],
)
def test_columns_that_make_no_sense_are_refused(recipe: Path, change: str, complaint: str) -> None:
    text = f"student={{model: test_resnet, {change}}}"
    with pytest.raises(RecipeError, match=f"(?s){complaint}"):
        load_recipe(recipe, (text,))


# Progressive columns ------------------------------------------------------------------------------


def test_a_whole_run_moves_no_answer_of_the_old_tasks(second: Path, grown: Path) -> None:
    old, new = answers(second.parent / "finished", pictures()), answers(grown, pictures())
    assert set(new) == {*OLD_TASKS, "tone"}
    assert all(torch.equal(old[task], new[task]) for task in OLD_TASKS)
    begun = build(load_recipe(second)).student.state_dict()
    left = read_weights(grown / "student")
    moved = {key for key, value in left.items() if not torch.equal(value, begun[key])}
    assert moved
    assert all(".tone." in key or key.startswith("heads.tone.") for key in moved)


def test_the_table_has_no_difference_for_the_old_tasks(grown: Path) -> None:
    results = json.loads((grown / "results.json").read_text())["tasks"]
    for task in OLD_TASKS:
        assert results[task]["student"] == results[task]["teacher"]


def test_only_the_new_task_has_a_loss_and_nothing_is_balanced(second: Path) -> None:
    built = parts(second)
    assert list(built.loss_configs) == ["tone"]
    assert built.balance == "balance: uniform (auto: one task trains)"
    assert (
        "heads hue, shape; these stay as they are, with a new column beside them; anew tone" in built.begins
    )


def test_parts_of_the_old_tasks_wait_for_no_rows(second: Path) -> None:
    built = parts(second, "training.asynchronous={trunk: 20, heads: 12}")
    objective = Objective(built.student, built.loss_configs, built.terms, built.rule)
    section = built.recipe.training.asynchronous
    assert section is not None
    assert set(Asynchronous(objective, section).rows) == {
        "trunk",
        "trunk.hue+shape",
        "trunk.tone",
        "heads.tone",
    }


def test_a_run_of_a_new_column_that_goes_on_ends_as_one_that_was_not_interrupted(
    grown: Path, second: Path, tmp_path: Path
) -> None:
    resumed(grown, second, (), tmp_path / "run")


def test_an_old_task_leaves_without_the_new_column(
    grown: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(width=200, force_terminal=False)
    folder = export_student(grown, "timm", out=tmp_path / "hue", only="hue", rows=8, console=console)
    assert "left out of the trunk: tone" in capsys.readouterr().out
    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    student = load_student(grown / "student").student
    with torch.no_grad():
        seen = student.trunk.preprocess(pictures())
        assert torch.allclose(model(seen), student(pictures())["hue"], atol=1e-5)
    with pytest.raises(StudentError, match="column of tone reads the others"):
        export_student(grown, "timm", out=tmp_path / "tone", only="tone", rows=8, console=QUIET)
    export_student(grown, "torchscript", out=tmp_path / "tone.ts", only="tone", rows=8, console=QUIET)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("tasks.hue.head.init=random", "hue.*stay"),
        ("student.init=random", "model|init"),
        ("student.columns={kind: progressive, own: 0.5}", "own"),
    ],
)
def test_what_would_move_an_old_answer_is_refused(second: Path, change: str, complaint: str) -> None:
    with pytest.raises(UserError, match=f"(?s){complaint}"):
        parts(second, change)
