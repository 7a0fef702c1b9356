"""A teacher counts for less on pictures unlike its own, and is not asked about those that lie far away."""

from pathlib import Path

import pytest
import torch
import toy_world
import yaml
from toys import SIZE

from distill_mtl import load_recipe
from distill_mtl.errors import RecipeError
from distill_mtl.training.parts import Parts, build
from distill_mtl.training.target_providers import ANNEALED_EPOCHS, annealed_steps
from distill_mtl.training.weigh_teachers import feature_distance, weight_at


def test_a_distance_does_not_depend_on_scale_and_place_of_the_features() -> None:
    own, other = torch.randn(200, 5), torch.randn(300, 5) * 2 + 1
    assert feature_distance(own, own) == pytest.approx(0, abs=1e-9)
    assert feature_distance(3 * own + 7, 3 * other + 7) == pytest.approx(
        feature_distance(own, other), rel=1e-5
    )


def test_one_standard_deviation_is_a_distance_of_one() -> None:
    own = torch.randn(100_000, 3)
    assert feature_distance(own, own + 1) == pytest.approx(1, rel=0.02)
    assert feature_distance(own, own * 0 + own.mean(0)) == pytest.approx(1, rel=0.02)


def test_weights_fall_with_the_distance_from_one_to_nothing() -> None:
    weights = [weight_at(distance) for distance in (0, 0.1, 0.3, 0.5, 0.7, 3, 50)]
    assert weights == sorted(weights, reverse=True)
    assert weights[:2] == [1, 1]
    assert 0 < weights[3] < weights[2] < 1
    assert weights[4:] == [0, 0, 0]


def test_pictures_like_the_teachers_own_are_heard_in_full(recipe: Path) -> None:
    parts = build(load_recipe(recipe))
    assert _weights(parts) == {"hue": {"shape": 1.0}, "shape": {"hue": 1.0}}
    assert parts.recipe.training.teachers_on == "missing"
    assert not parts.decided


def test_a_teacher_counts_for_less_on_pictures_of_another_world(tmp_path: Path) -> None:
    recipe = toy_world.build(tmp_path)
    pixels = torch.zeros(SIZE, SIZE, 3).byte().numpy()
    black = [{"__key__": f"{row:03d}", "png": toy_world.png(pixels)} for row in range(20)]
    toy_world.write_rows(tmp_path / "black.tar", black)
    parts = build(load_recipe(recipe, [f"data.black={{shards: {tmp_path / 'black.tar'}}}"]))
    weights = _weights(parts)
    assert weights["hue"]["black"] < 0.5 < weights["hue"]["shape"]
    assert any("black" in line for line in parts.decided)


def test_teachers_that_are_not_asked_about_other_pictures_are_heard_on_their_own(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill_mtl.training.weigh_teachers.weight_at", lambda _: 0.0)
    parts = build(load_recipe(recipe))
    assert _weights(parts) == {"hue": {"shape": 0.0}, "shape": {"hue": 0.0}}
    assert parts.recipe.training.teachers_on == "all"
    batch = next(iter(parts.sources.stream(steps=1)))
    rows = parts.providers(parts.targets(), parts.student).rows(batch, ["hue", "shape"])
    assert sorted(torch.cat([rows["hue"], rows["shape"]]).tolist()) == list(range(len(batch)))
    assert any("teachers_on" in line for line in parts.decided)


@pytest.fixture
def hue_alone(recipe: Path) -> Path:
    """Every row has a label of the only task."""
    content = yaml.safe_load(recipe.read_text())
    alone = recipe.with_name("alone.yaml")
    alone.write_text(yaml.safe_dump({**content, "tasks": {"hue": content["tasks"]["hue"]}}))
    return alone


def test_beside_a_label_annealed_targets_weigh_less_and_less_and_then_nothing(hue_alone: Path) -> None:
    parts = build(load_recipe(hue_alone, ("training.teachers_on=annealed",)))
    providers = parts.providers(parts.targets(), parts.student)
    batch = next(iter(parts.sources.stream(steps=1)))
    end = annealed_steps(parts.recipe, parts.sources)["hue"]
    assert end == ANNEALED_EPOCHS * parts.sources.steps_per_epoch(12)
    for step in (0, int(end / 4), int(end)):
        providers.begin(step, parts.student)
        weights = providers(batch.to("cpu"), providers.rows(batch, ["hue"]))["hue"].weights
        assert weights is not None
        assert weights.tolist() == pytest.approx([1 - step / end] * len(batch))
    for step in (int(end) + 1, 2 * int(end)):
        providers.begin(step, parts.student)
        assert not len(providers.rows(batch, ["hue"])["hue"])


def test_annealing_leaves_a_task_as_it_is_if_some_rows_lack_its_label(recipe: Path) -> None:
    found = []
    for on in ("missing", "annealed"):
        parts = build(load_recipe(recipe, (f"training.teachers_on={on}",)))
        providers = parts.providers(parts.targets(), parts.student)
        batch = next(iter(parts.sources.stream(steps=1)))
        for step in (0, 1, 1000):
            providers.begin(step, parts.student)
            targets = providers(batch.to("cpu"), providers.rows(batch, ["hue", "shape"]))
            found.append({task: target.rows.tolist() for task, target in targets.items()})
            weights = [target.weights for target in targets.values() if target.weights is not None]
            assert all(bool((of_task == 1).all()) for of_task in weights)
    assert all(one == found[0] for one in found)


def test_a_teacher_of_weight_0_is_not_asked(recipe: Path) -> None:
    parts = build(load_recipe(recipe, ("tasks.hue.teacher_weight.shape=0",)))
    batch = next(iter(parts.sources.stream(steps=1)))
    rows = parts.providers(parts.targets(), parts.student).rows(batch, ["hue", "shape"])
    assert len(rows["shape"])
    assert not len(rows["hue"])
    # Gradients on rows that not every task has are not compared.
    assert parts.balance.startswith("balance: uniform")


def test_without_auto_every_teacher_is_heard_in_full(recipe: Path) -> None:
    for on in ("missing", "all", "none"):
        parts = build(load_recipe(recipe, (f"training.teachers_on={on}",)))
        assert _weights(parts) == {"hue": {}, "shape": {}}
        assert parts.recipe.training.teachers_on == on


def test_resolved_weights_are_taken_as_they_stand(recipe: Path) -> None:
    parts = build(load_recipe(recipe, ("tasks.hue.teacher_weight.shape=0.25",)))
    providers = parts.providers(parts.targets(), parts.student)
    batch = next(iter(parts.sources.stream(steps=1)))
    targets = providers(batch.to("cpu"), providers.rows(batch, ["hue", "shape"]))
    assert targets["shape"].weights is None
    weights = targets["hue"].weights
    assert weights is not None
    assert (weights == 0.25).all()


def test_a_weight_for_no_data_set_or_no_teacher_is_refused(recipe: Path) -> None:
    with pytest.raises(RecipeError, match=r"(?s)teacher_weight\.shap.*shape"):
        load_recipe(recipe, ("tasks.hue.teacher_weight.shap=0.5",))
    without = ("tasks.hue.teacher=null", "tasks.hue.classes=3", "tasks.hue.teacher_weight.shape=0.5")
    with pytest.raises(RecipeError, match=r"tasks\.hue\.teacher_weight"):
        load_recipe(recipe, without)


def _weights(parts: Parts) -> dict[str, dict[str, float]]:
    weights = {task: section.teacher_weight for task, section in parts.recipe.tasks.items()}
    return {task: of_task for task, of_task in weights.items() if isinstance(of_task, dict)}
