"""A recipe's teachers compared, on the toy world of two tasks."""

import io
from dataclasses import replace

import pytest
import torch
import toy_world
from rich.console import Console
from torch import nn

from distill_mtl.errors import UserError
from distill_mtl.jobs.branch import branch
from distill_mtl.recipe import load_recipe
from distill_mtl.recipe.yaml_writer import dump_recipe
from distill_mtl.training.branching import probe as probe_module
from distill_mtl.training.branching.find import _with_left_out, choose, find_branching
from distill_mtl.training.branching.search import TaskTree
from distill_mtl.training.branching.teacher_features import look
from distill_mtl.training.parts import build, compare_teachers
from distill_mtl.training.run_folder import RunFolder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return toy_world.build(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def compared(recipe):
    return compare_teachers(load_recipe(recipe), 60, CPU)


def test_depths_are_the_students_and_layers_the_teachers(compared):
    assert [depth.name for depth in compared.depths] == ["first", "second"]
    assert {task: of.layers for task, of in compared.teachers.items()} == {
        "hue": ["first", "second"],
        "shape": ["first", "second"],
    }
    assert len(compared.images) == 60


def test_a_teacher_with_its_own_features_in_their_place_answers_as_it_does(compared):
    for layers in compared.teachers.values():
        with layers.tapped():
            own = layers.answered(compared.images)
            torch.testing.assert_close(own.logits, layers.teacher(compared.images).logits)
            for depth, features in enumerate(own.maps):
                same = layers.answers_with(compared.images, depth, features, own)
                torch.testing.assert_close(same, own.logits)
                other = layers.answers_with(compared.images, depth, 0 * features, own)
                assert not torch.allclose(other, own.logits)
            torch.testing.assert_close(layers.answered(compared.images).logits, own.logits)


def test_what_is_seen_does_not_depend_on_other_teachers(compared):
    both = look(compared.teachers, compared.images, CPU)
    alone = look({"hue": compared.teachers["hue"]}, compared.images, CPU)
    for one, other in zip(both["hue"].places, alone["hue"].places, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("by", ["floor", "rsa", "cka"])
def test_the_best_trees_are_found(compared, by):
    found = find_branching(compared, 2.0, by)
    assert found.trees[0].groups == ((("hue", "shape"),), (("hue", "shape"),))
    assert all(one.loss > two.loss for one, two in zip(found.trees, found.trees[1:], strict=False))
    assert found.chosen.size <= 2
    assert set(found.likeness) == {"rsa", "cka"}
    assert set(found.likeness["rsa"]) == {("hue", "shape"), ()}
    if by in ("rsa", "cka"):
        assert found.branch == {"second": [["hue"], ["shape"]]}


def test_a_tree_has_to_be_worth_its_size():
    def trees(*pairs):
        return [TaskTree((), size, loss) for size, loss in pairs]

    few = trees((1.0, 3.2), (1.1, 2.9), (1.25, 1.9), (1.8, 0.8))  # the quickstart
    assert choose(few, 1.3, in_points=True).size == 1
    assert choose(few, 2.0, in_points=True).size == 1.8
    many = trees((1.0, 10.1), (1.1, 9.8), (1.25, 7.1), (1.29, 7.0))  # the scenes
    assert choose(many, 1.5, in_points=True).size == 1.25
    assert choose(many, 1.5, in_points=False).size == 1.29


def test_the_same_rows_give_the_same_tree(compared):
    assert find_branching(compared, 2.0).trees == find_branching(compared, 2.0).trees


def test_teachers_that_are_the_same_share_one_trunk(compared):
    hue, kind = compared.teachers["hue"], compared.kinds["hue"]
    same = replace(compared, teachers={"hue": hue, "twin": hue}, kinds={"hue": kind, "twin": kind})
    found = find_branching(same, 2.0)
    assert found.floor["hue"][1] == pytest.approx(0, abs=1e-6)
    assert found.branch == {}


def test_a_budget_below_one_network_is_refused(recipe):
    with pytest.raises(UserError, match="below one"):
        branch(recipe, budget=0.5, rows=60)


def test_one_task_alone_is_refused(recipe):
    alone = recipe.with_name("alone.yaml")
    alone.write_text(recipe.read_text().split("  shape:")[0] + "training: {steps: 6, batch_size: 12}\n")
    with pytest.raises(UserError, match=r"student\.branch.*hue is the only one"):
        branch(alone, rows=60)


def test_teachers_without_features_are_named(recipe):
    overrides = ["tasks.shape.teacher=null", "tasks.shape.classes=2"]
    with pytest.raises(UserError, match=r"shape: it has no teacher"):
        branch(recipe, overrides, rows=60)


def test_a_teacher_whose_file_has_no_layers_is_named(recipe):
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    path = recipe.parent / "answers.ts"
    torch.jit.trace(network, torch.rand(2, 3, 16, 16)).save(path)
    said = f"{{path: {path}, trust: true, expect: 0, classes: [a, b, c], input: {{size: 16}}}}"
    with pytest.raises(UserError, match=r"hue: its teacher answers\.ts does not give the features"):
        branch(recipe, [f"tasks.hue.teacher={said}"], rows=60)


def test_a_task_that_is_not_compared_goes_with_the_largest_group(compared):
    hue, kinds = compared.teachers["hue"], compared.kinds
    three = replace(
        compared,
        teachers={"hue": hue, "shape": compared.teachers["shape"], "twin": hue},
        kinds={"left": kinds["hue"], "hue": kinds["hue"], "shape": kinds["shape"], "twin": kinds["hue"]},
        left_out={"left": "why"},
    )
    assert find_branching(three, 2.0, "rsa").branch == {"second": [["left", "hue", "twin"], ["shape"]]}


def test_a_task_that_is_not_compared_keeps_its_company_where_tasks_part_twice():
    """Its group at the last stage is not the largest one at the stage before."""
    tasks = ["a", "b", "c", "d", "e", "x"]
    branch = {"first": [["a", "b", "c"], ["d", "e"]], "second": [["a"], ["b"], ["c"], ["d", "e"]]}
    joined = _with_left_out(branch, tasks, ["x"])
    assert joined == {
        "first": [["a", "b", "c"], ["d", "e", "x"]],
        "second": [["a"], ["b"], ["c"], ["d", "e", "x"]],
    }
    assert _with_left_out({}, tasks, ["x"]) == {}


def test_the_lines_for_the_recipe_are_printed(recipe):
    said = io.StringIO()
    branch(recipe, budget=2, by="rsa", rows=60, console=Console(file=said, width=100))
    assert "second: [[hue], [shape]]" in said.getvalue()
    assert "random network" in said.getvalue()


@pytest.mark.parametrize("asked", ["auto", "{auto: {budget: 2.0, by: rsa, rows: 60}}"])
def test_auto_is_decided_before_the_run(recipe, asked):
    parts = build(load_recipe(recipe, [f"student.branch={asked}"]))
    assert parts.recipe.student.branch in (None, {"second": [["hue"], ["shape"]]})
    if asked != "auto":
        assert parts.recipe.student.branch == {"second": [["hue"], ["shape"]]}
        assert "hue" in str(parts.student.trunk.describe()["branch"])
    assert (
        parts.recipe.student.branch
        == build(load_recipe(recipe, [f"student.branch={asked}"])).recipe.student.branch
    )


def test_a_probe_trains_some_trees_and_ranks_them_on_held_out_rows(compared, monkeypatch):
    monkeypatch.setattr(probe_module, "STEPS", 30)
    found = find_branching(compared, 2.0, "probe")
    assert found.unit == "hint error"
    assert found.trees[0].size == 1
    assert all(0 < tree.loss < 1.5 for tree in found.trees)
    assert found.chosen.loss == min(tree.loss for tree in found.trees)
    assert found.trees == find_branching(compared, 2.0, "probe").trees


def test_hard_rows_needs_rows_with_labels_of_both(compared):
    with pytest.raises(UserError, match="hue and shape have 0 of them"):
        find_branching(compared, 2.0, "hard_rows")


def test_hard_rows_are_compared_where_both_have_labels(compared):
    hue, kind = compared.teachers["hue"], compared.kinds["hue"]

    class Twice:
        """Every row that is labelled for hue has the same label for its twin."""

        def labelled(self, task, split, batch_size, **options):
            for batch in compared.sources.labelled("hue", split, batch_size, **options):
                yield replace(batch, labels={task: batch.labels["hue"]})

    twins = replace(
        compared, teachers={"hue": hue, "twin": hue}, kinds={"hue": kind, "twin": kind}, sources=Twice()
    )
    found = find_branching(twins, 2.0, "hard_rows")
    assert found.likeness["hard_rows"]["hue", "twin"] == [1.0, 1.0]
    assert found.branch == {}


@pytest.mark.parametrize("asked", ["auto", "{auto: {budget: 2.0, by: rsa, rows: 60}}"])
@pytest.mark.parametrize("taken", ["{second: [[hue], [shape]]}", "null"])
def test_a_resumed_run_takes_the_tree_of_its_folder(recipe, tmp_path, asked, taken):
    folder = RunFolder(tmp_path)
    folder.begin(dump_recipe(load_recipe(recipe, [f"student.branch={taken}"])), resume=False)
    loaded = load_recipe(recipe, [f"student.branch={asked}"])
    assert (
        folder.decided(loaded).student.branch
        == load_recipe(recipe, [f"student.branch={taken}"]).student.branch
    )
