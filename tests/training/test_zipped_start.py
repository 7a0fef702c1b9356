"""`student.init: zip` on the quickstart's own teachers, and what it refuses."""

import pytest
import torch
from real_data import ROOT

from distill_mtl.errors import UserError
from distill_mtl.recipe import load_recipe
from distill_mtl.training.parts import build


def scores(overrides):
    parts = build(load_recipe(ROOT / "recipes" / "left_and_right.yaml", overrides))
    student = parts.student.eval()
    found = {}
    for task, kind in parts.kinds.items():
        statistics = []
        for batch in parts.sources.labelled(task, "test", 128, limit=600):
            seen = batch.to("cpu")
            with torch.no_grad():
                statistics.append(kind.statistics(student(seen.images)[task], seen.labels[task]))
        found[task] = float(kind.score(torch.cat(statistics)))
    return found


@pytest.mark.parametrize("overrides", [[], ["student.branch={left: layer4}"]], ids=["trunk", "tree"])
def test_two_digits_are_read_before_training(overrides):
    found = scores(["student.init=zip", *overrides])
    assert found["left"] > 70
    assert found["right"] > 70


def test_the_same_rows_give_the_same_start():
    recipe = load_recipe(ROOT / "recipes" / "left_and_right.yaml", ["student.init=zip"])
    one, two = (build(recipe).student.state_dict() for _ in range(2))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_head_may_begin_anew():
    recipe = ROOT / "recipes" / "left_and_right.yaml"
    own = build(load_recipe(recipe, ["student.init=zip"])).student
    anew = build(load_recipe(recipe, ["student.init=zip", "tasks.left.head={init: random}"])).student
    assert not torch.equal(own.heads["left"].linear.weight, anew.heads["left"].linear.weight)
    assert torch.equal(own.heads["right"].linear.weight, anew.heads["right"].linear.weight)


def test_teachers_of_another_architecture_are_named():
    recipe = load_recipe(
        ROOT / "recipes" / "left_and_right.yaml", ["student.init=zip", "student.model=resnet18"]
    )
    with pytest.raises(UserError, match=r"student\.init.*left: left is another network"):
        build(recipe)


def test_a_random_start_says_where_teachers_could_be_zipped():
    recipe = ROOT / "recipes" / "left_and_right.yaml"
    said = build(load_recipe(recipe)).decided
    assert [note for note in said if "the teachers of left, right are test_resnet too" in note]
    for elsewhere in (["student.model=test_vit"], ["student.branch={left: layer4}"], ["student.init=zip"]):
        assert not any("student.init: zip" in note for note in build(load_recipe(recipe, elsewhere)).decided)
