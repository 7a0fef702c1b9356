"""Loading several teachers of one task: the union of their classes, and teachers that cannot be united."""

from pathlib import Path

import pytest
import torch
import toys

from distill_mtl.errors import TeacherError
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.tasks.base import build_kind
from distill_mtl.teachers.label_map import UNKNOWN
from distill_mtl.teachers.load_teacher import load_teachers
from distill_mtl.teachers.teacher import Teacher


def load(
    folder: Path, kind: str, *classes: tuple[str, ...], wanted: list[str] | None = None
) -> list[Teacher]:
    """Toy teachers of these classes, in this order."""
    sections = []
    for number, names in enumerate(classes):
        place = folder / str(number)
        toys.toy_teacher_folder(place, "t", build_kind(kind, names), seed=number)
        sections.append(TeacherSection(path=str(place)))
    return load_teachers(sections, task="t", kind=kind, layers=[[]] * len(classes), classes=wanted)


def test_the_union_is_in_the_order_of_the_teachers(tmp_path: Path) -> None:
    one, two = load(tmp_path, "classification", ("cat", "dog"), ("owl", "dog"))
    assert one.card.classes == two.card.classes == ("cat", "dog", "owl")
    assert (one.known, two.known) == ((0, 1), (1, 2))
    images = torch.rand(2, 3, toys.SIZE, toys.SIZE)
    logits = two(images).logits
    assert (logits[:, 0] == UNKNOWN).all()
    # Its own first class is the union's last.
    assert torch.equal(two.alone()(images).logits, logits[:, [1, 2]])
    assert two.alone().card.classes == ("dog", "owl")
    assert torch.equal(two.raw(images)["logits"], logits[:, [2, 1]])


def test_the_order_of_a_recipe_counts_and_other_classes_are_left_out(tmp_path: Path) -> None:
    wanted = ["owl", "cat"]
    one, two = load(tmp_path, "classification", ("cat", "dog"), ("owl", "dog"), wanted=wanted)
    assert (one.known, two.known) == ((1,), (0,))


def test_heat_maps_keep_their_sizes_behind_the_classes(tmp_path: Path) -> None:
    one, two = load(tmp_path, "heatmap", ("car",), ("person",))
    assert (one.known, two.known) == ((0,), (1,))
    logits = two(torch.rand(1, 3, toys.SIZE, toys.SIZE)).logits
    assert logits.shape[1] == 2 + 4
    assert (logits[:, 0] == UNKNOWN).all()
    assert not (logits[:, 1:] == UNKNOWN).any()


@pytest.mark.parametrize(
    ("kind", "classes", "said"),
    [
        ("regression", [("x", "y"), ("y", "z")], "regression must know all"),
        ("classification", [("cat", "dog"), ("Cat", "owl")], "'cat' of 0 and 'Cat' of 1 are nearly the same"),
        (
            "classification",
            [("cat", "dog"), ("0", "1")],
            "the classes of 1 have no names.* Give it `classes`",
        ),
    ],
)
def test_teachers_that_cannot_be_united_are_named(
    tmp_path: Path, kind: str, classes: list[tuple[str, ...]], said: str
) -> None:
    with pytest.raises(TeacherError, match=said):
        load(tmp_path, kind, *classes)
