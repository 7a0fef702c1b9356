import pytest

from distill_mtl.errors import RecipeError
from distill_mtl.recipe.command_line import read_teacher, task_name


def test_options_and_overrides_become_a_section_of_the_recipe() -> None:
    section = read_teacher(
        {"path": "a.onnx", "trust": True}, ["input.size=[32, 64]", "classes=[cat, dog]"], "pet"
    )
    assert section.path == "a.onnx"
    assert section.input.size == (32, 64)
    assert section.classes == ["cat", "dog"]
    assert section.trust


@pytest.mark.parametrize(
    ("values", "overrides", "said"),
    [
        (
            {"path": "a"},
            ["input.sze=3"],
            r"in --set input\.sze=3, tasks\.pet\.teacher\.input\.sze.*Did you mean 'size'",
        ),
        ({"path": "a"}, ["expect=high"], r'in --set expect=high.*found "high", expected a number'),
        ({"path": "a"}, ["input.size"], r"in --set input\.size.*expected key\.path=value"),
        ({"path": "a", "timm": "resnet18"}, [], "in the command line.*found `path` and `timm`"),
        ({"module": "a:b"}, [], "`module` without `weights`"),
        ({}, [], "found no network"),
    ],
)
def test_mistakes_are_said_as_in_a_recipe(values: dict[str, str], overrides: list[str], said: str) -> None:
    with pytest.raises(RecipeError, match=f"(?s)Recipe error {said}" if said.startswith("in") else said):
        read_teacher(values, overrides, "pet")


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("models/breed.onnx", "breed"),
        ("teachers/left", "left"),
        ("runs/pets/student", "pets"),
        ("pets/model.fp16.onnx", "pets"),
        ("model.onnx", "model"),
        ("hf_hub:owner/my-net@main", "my-net"),
        ("resnet50.a1_in1k", "resnet50"),
        ("x/3d parts.pt2", "task-3d-parts"),
        ("", "task"),
    ],
)
def test_a_task_is_named_after_its_file(place: str, name: str) -> None:
    assert task_name(place) == name


def test_names_of_tasks_differ() -> None:
    assert task_name("b/breed.pt2", ["breed", "breed-2"]) == "breed-3"
