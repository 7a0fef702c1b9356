"""Crop and flip of a data set, where the recipe leaves them to `auto`."""

from pathlib import Path

import pytest

from distill_mtl import load_recipe
from distill_mtl.tasks.classification import Classification
from distill_mtl.training import choose_views
from distill_mtl.training.choose_views import means_a_side
from distill_mtl.training.parts import build


def test_small_pictures_are_moved_and_not_scaled(recipe: Path) -> None:
    said = "data.shape.augment.crop=[0.3, 1.0]"
    small = build(load_recipe(recipe, [said])).recipe.data
    assert small["hue"].augment.crop == 0.125
    assert small["shape"].augment.crop == (0.3, 1.0)
    large = build(load_recipe(recipe, [said, "tasks.hue.teacher.input.size=96"])).recipe.data
    assert large["hue"].augment.crop == (0.5, 1.0)
    assert large["shape"].augment.crop == (0.3, 1.0)


def test_pictures_are_mirrored_if_the_teachers_take_them_for_what_they_were(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _flips(recipe, []) == {"hue": True, "shape": True}
    monkeypatch.setattr(choose_views, "_scores", lambda *_: (90.0, 85.0))
    assert _flips(recipe, []) == {"hue": True, "shape": True}
    monkeypatch.setattr(choose_views, "_scores", lambda *_: (90.0, 60.0))
    assert _flips(recipe, []) == {"hue": False, "shape": False}
    not_asked = ["tasks.hue.teacher_weight.shape=0"]
    assert _flips(recipe, not_asked) == {"hue": False, "shape": True}


@pytest.mark.parametrize(
    ("names", "side"),
    [
        (("0 - zero", "1 - one"), True),
        (("a", "b", "c"), True),
        (("turn left", "straight on"), True),
        (("0", "1", "2"), False),  # numbers that name nothing
        (("cat", "dog"), False),
        (("copyright", "leftovers"), False),
    ],
)
def test_names_of_classes_say_whether_a_mirror_changes_them(names: tuple[str, ...], side: bool) -> None:
    assert means_a_side(Classification(names)) == side


def test_classes_that_change_places_in_a_mirror_may_be_mirrored() -> None:
    assert not means_a_side(Classification(("left", "right"), mirrored=[["left", "right"]]))


def _flips(recipe: Path, overrides: list[str]) -> dict[str, object]:
    data = build(load_recipe(recipe, overrides)).recipe.data
    return {name: source.augment.flip for name, source in data.items()}
