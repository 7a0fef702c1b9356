import re
from pathlib import Path

import pytest
import toy_world

from distill_mtl import load_recipe
from distill_mtl.errors import RecipeError
from distill_mtl.training.parts import Parts, build


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_world.build(tmp_path_factory.mktemp("world"))


def test_without_a_schedule_a_run_is_one_stage(recipe: Path) -> None:
    (stage,) = _build(recipe).schedule.stages
    assert stage.ends == 6
    assert stage.trains is None
    assert stage.loss_configs["hue"].temperature == 4.0


def test_stages_end_at_shares_and_steps_and_change_what_they_name(recipe: Path) -> None:
    parts = _build(
        recipe,
        "training.steps=100",
        "tasks.hue.weights.hint=5",
        "schedule=[{until: 30, weights: {supervised: 0}, temperature: 2},"
        " {until: 0.5, weights: {hint: 0}, tasks: {hue: {weights: {hint: 3}, temperature: 8}}}, {}]",
    )
    schedule = parts.schedule
    assert [stage.ends for stage in schedule.stages] == [30, 50, 100]
    assert [schedule.stages.index(schedule.at(step)) for step in (0, 29, 30, 49, 50, 99)] == [
        0,
        0,
        1,
        1,
        2,
        2,
    ]
    first, second, third = (stage.loss_configs for stage in schedule.stages)
    assert [loss_configs["hue"].weights["supervised"] for loss_configs in (first, second, third)] == [0, 1, 1]
    assert [loss_configs["hue"].weights["hint"] for loss_configs in (first, second, third)] == [5, 3, 5]
    assert [loss_configs["hue"].temperature for loss_configs in (first, second, third)] == [2, 8, 4]
    assert second["shape"].weights["hint"] == 0
    assert second["shape"].temperature == 4


def test_fitnets_is_hints_up_to_the_guided_layer_and_then_everything(recipe: Path) -> None:
    hints = [f"tasks.{task}.hints=[{{student: first}}]" for task in ("hue", "shape")]
    first, second = _build(recipe, "training.steps=10", "schedule=fitnets", *hints).schedule.stages
    assert (first.ends, second.ends) == (3, 10)
    assert first.trains is not None
    assert {name.rpartition(".")[0] for name in first.trains} == {
        "student.trunk.model.first.0",
        "terms.hue.hint.adapters.0.adapter",
        "terms.shape.hint.adapters.0.adapter",
    }
    assert first.loss_configs["hue"].weights == {"supervised": 0, "soft_targets": 0, "hint": 0.1}
    assert second.trains is None


def test_a_teacher_that_only_a_later_stage_needs_is_there(recipe: Path) -> None:
    silent = "{weights: {soft_targets: 0, hint: 0}, until: 2}"
    parts = _build(recipe, f"schedule=[{silent}, {{}}]")
    assert set(parts.targets().teachers) == {"hue", "shape"}
    parts = _build(recipe, f"schedule=[{silent}]", "schedule.0.until=null")
    assert parts.targets().teachers == {}


def test_cover_must_hold_in_every_stage(recipe: Path) -> None:
    parts = _build(recipe, "schedule=[{until: 2, weights: {supervised: 0}}, {}]")
    assert re.search(r"uniform \(auto: .*neither a label nor a teacher.*hue, shape", parts.balance)
    parts = _build(recipe, "schedule=[{until: 2, weights: {supervised: 0}}, {}]", "training.teachers_on=all")
    assert "mgda_ub" in parts.balance


@pytest.mark.parametrize(
    ("override", "key", "found"),
    [
        ("[{until: 4}, {until: 3}, {}]", "schedule.1.until", "step 3 of 6"),
        ("[{until: 0.01}, {}]", "schedule.0.until", "step 0 of 6"),
        ("[{until: 7}, {}]", "schedule.0.until", "step 7 of 6"),
        ("[{until: 3}, {until: 0.8}]", "schedule.1.until", "step 5 of 6"),
        ("[{until: 3}, {weights: {supervised: 0, soft_targets: 0, hint: 0}}]", "schedule.1", "weights"),
        ("[{train: ['trunk:frist']}]", "schedule.0.train.0", "'first'"),
        ("[{weights: {supervised: 0, soft_targets: 0}, train: [heads]}]", "schedule.0.train", "heads"),
        ("[{tasks: {hue: {weights: {supervised: 0, soft_targets: 0, hint: 0}}}}]", "tasks.hue", "weights"),
    ],
)
def test_stages_that_make_no_sense_are_refused(recipe: Path, override: str, key: str, found: str) -> None:
    with pytest.raises(RecipeError) as caught:
        _build(recipe, f"schedule={override}")
    assert str(caught.value).startswith(f"{key}: ")
    assert found in str(caught.value)


def test_a_last_stage_may_train_a_part_alone(recipe: Path) -> None:
    assert _build(recipe, "schedule=[{until: 2}, {train: [trunk]}]").schedule.steps == 6


def test_hints_alone_without_teachers_are_refused_with_the_way_out(recipe: Path) -> None:
    with pytest.raises(RecipeError, match=r"(?s)schedule\.0: .*--set schedule=\[\]"):
        _build(recipe, "schedule=fitnets", "training.teachers_on=none")
    _build(recipe, "schedule=fitnets", "training.teachers_on=none", "schedule=[]")


def _build(recipe: Path, *overrides: str) -> Parts:
    return build(load_recipe(recipe, overrides))
