"""Several teachers of one task, and labels that tell of some classes: what a recipe may say of them."""

import pytest
from recipe_texts import Load, Refuse

from distill_mtl.recipe import dump_recipe
from distill_mtl.recipe.schema import TeacherSection

RECIPE = "student: resnet18\ntasks:\n  breed:\n    teacher: TEACHER\nMORE    data: a.tar\n"


def text(teacher: str, *more: str) -> str:
    """A recipe of one task with these lines."""
    lines = "".join(f"    {line}\n" for line in more)
    return RECIPE.replace("TEACHER", teacher).replace("MORE", lines)


def test_each_teacher_of_a_list_has_any_form(load: Load) -> None:
    recipe = load(text("[models/a, {timm: resnet50.a1_in1k}]", "combine: [2, 1]"))
    first, second = recipe.tasks["breed"].networks
    assert isinstance(first, TeacherSection)
    assert first.path is not None
    assert first.path.endswith("/models/a")
    assert second.timm == "resnet50.a1_in1k"
    assert list(recipe.networks) == ["breed/1", "breed/2"]
    assert load(dump_recipe(recipe)) == recipe


def test_a_list_of_one_is_that_teacher(load: Load) -> None:
    assert list(load(text("[models/a]")).networks) == ["breed"]


def test_labels_say_what_they_know(load: Load) -> None:
    own = text("[models/a, models/b]").replace("data: a.tar", "data: {shards: a.tar, knows: [cat, dog]}")
    assert load(own).data["breed"].labels["breed"].knows == ["cat", "dog"]


@pytest.mark.parametrize(
    ("teacher", "more", "said"),
    [
        ("models/a", "combine: mean", "combine:\n  there is one teacher, and nothing to combine"),
        ("[a, b]", "combine: best", 'combine:\n  found "best", expected '),
        ("[a, b]", "combine: [1, 1, 1]", "combine:\n  found 3 weights for 2 teachers"),
        ("[a, b]", "combine: [1, 0]", "combine.1:\n  a teacher of weight 0 says nothing"),
        (
            "[a, self]",
            "metric: accuracy",
            "teacher.1:\n  the student itself cannot be one of several teachers",
        ),
        ("[a, ./a]", "metric: accuracy", "teacher.1:\n  this is teacher 1 again"),
        ("[a, {trust: true}]", "metric: accuracy", "teacher.1:\n  found no network"),
        ("[a, b]", "hints: [{of: 3}]", "hints.0.of:\n  found 3, and the task has 2 teachers"),
        ("a", "hints: [{of: 1}]", "hints.0.of:\n  found 1, and the task has 1 teacher"),
        ("[a, b]", "head: {init: teacher}", "head.init:\n  the task has several teachers"),
        ("[a, b]", "teacher_weight: [{breed: 1}]", "teacher_weight:\n  found 1 mappings for 2 teachers"),
        ("[a, b]", "teacher_weight: [{}, {bred: 1}]", "no data set 'bred'. Did you mean 'breed'"),
    ],
)
def test_mistakes_name_their_key(refuse: Refuse, teacher: str, more: str, said: str) -> None:
    (found,) = refuse(text(teacher, more))
    assert said in found
