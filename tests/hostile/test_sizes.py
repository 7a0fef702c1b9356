"""Sizes that no machine has: a bound in the recipe, or both numbers of bytes before anything is built."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from distill_mtl import machine_memory
from distill_mtl.errors import RecipeError, StudentError, UserError, nearest
from distill_mtl.machine_memory import available_memory, refuse_beyond_memory, within_memory
from distill_mtl.networks.modes import usable_device
from distill_mtl.recipe import load_recipe
from distill_mtl.recipe.schema import StudentSection
from distill_mtl.students.initial_weights import build_student, create_trunk
from distill_mtl.tasks.base import HeadShape, build_kind
from distill_mtl.teachers.label_map import match_classes

RECIPE = """\
student: resnet18
tasks:
  breed: {teacher: t, data: a.tar}
"""
BEYOND = [
    ("training.batch_size", 2147483648),
    ("training.workers", 1_000_000),
    ("training.steps", 10**30),
    ("training.epochs", 1e300),
    ("training.stream", {"mode": "alternate", "phase": 10**12}),
    ("evaluation.batch_size", 10**9),
    ("evaluation.bootstrap", 10**9),
    ("student.input_size", 100_000),
    ("student.input_size", [224, 10**6]),
    ("tasks.breed.classes", 100_000_000),
    ("tasks.breed.teacher.classes", 100_000_000),
    ("tasks.breed.teacher.input.size", 10**6),
    ("tasks.breed.teacher.input.batch", 10**9),
    ("tasks.breed.teacher.input.mean", [1e308]),
    ("tasks.breed.teacher.input.std", [1e-308]),
    ("tasks.breed.teacher.input.white", 1e-308),
    ("tasks.breed.head.width", 10**9),
    ("tasks.breed.head.depth", 10**6),
    ("tasks.breed.temperature", 1e308),
    ("tasks.breed.temperature", 1e-308),
    ("tasks.breed.weights", {"hint": 1e308}),
    ("tasks.breed.data.weight", 1e308),
    ("tasks.breed.data.weight", 1e-308),
    ("targets.views", 10**9),
    ("optimizer.lr", 1e308),
    ("optimizer.weight_decay", 1e308),
    ("name", "n" * 5000),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "pets.yaml"
    path.write_text(RECIPE)
    return path


@pytest.mark.parametrize(
    ("key", "value"), BEYOND, ids=[f"{key}-{number}" for number, (key, _) in enumerate(BEYOND)]
)
def test_a_size_beyond_all_machines_is_refused_with_its_key(path: Path, key: str, value: Any) -> None:
    begun = time.monotonic()
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, [f"{key}={json.dumps(value)}"])
    message = str(caught.value)
    assert key in message
    assert "expected" in message
    assert "\n\n" not in message
    assert time.monotonic() - begun < 10


def test_names_of_5000_letters_are_refused_in_a_short_message(tmp_path: Path) -> None:
    path = tmp_path / "pets.yaml"
    path.write_text(RECIPE.replace("breed", "b" * 1000))
    with pytest.raises(RecipeError, match="100 at most"):
        load_recipe(path)
    with pytest.raises(UserError, match="500") as caught:
        build_kind("classification", ["cat", "x" * 5000])
    assert len(str(caught.value)) < 200


def test_a_long_name_of_the_file_gives_a_run_name_that_is_taken(tmp_path: Path) -> None:
    path = tmp_path / ("r" * 200 + ".yaml")
    path.write_text(RECIPE)
    assert load_recipe(path).name == "r" * 100


@pytest.mark.parametrize(
    ("size", "value"), [("width", 10**9), ("depth", 10**6), ("width", 0), ("depth", "3")]
)
def test_a_head_of_no_possible_size_is_refused_wherever_it_is_from(size: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"head.{size}"):
        HeadShape(**{size: value})


def test_a_head_that_memory_cannot_hold_is_refused_before_it_is_made() -> None:
    section = StudentSection(model="resnet18", input_size=64, init="random")
    kind = build_kind("classification", ["a", "b"], head={"width": 65536, "depth": 100})
    with pytest.raises(StudentError, match=r"needs at least .*B of memory.*B are available"):
        build_student(section, {"breed": kind}, seed=0)


@pytest.mark.parametrize("args", [{"base_width": 10**6}, {"layers": [10**9, 1, 1, 1]}])
def test_a_trunk_that_memory_cannot_hold_is_refused_before_it_is_made(
    args: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_memory, "available_memory", lambda: 200_000_000)
    section = StudentSection(model="resnet50", input_size=64, init="random", args=args)
    with pytest.raises(StudentError, match=r" needs at least .*B of memory, and 200 MB are available"):
        build_student(section, {"breed": build_kind("classification", ["a", "b"])}, seed=0)


def test_an_image_that_memory_cannot_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_memory, "available_memory", lambda: 2_000_000_000)
    section = StudentSection(model="resnet18", input_size=8192, init="random")
    with pytest.raises(StudentError, match="8192 x 8192 pixels needs at least .* 2.0 GB are available"):
        build_student(section, {"breed": build_kind("classification", ["a", "b"])}, seed=0)


def test_what_fits_is_built_with_the_same_weights() -> None:
    torch.manual_seed(3)
    bare = nn.Linear(7, 5).weight
    torch.manual_seed(3)
    with within_memory("it", "Smaller."):
        counted = nn.Linear(7, 5).weight
    assert torch.equal(bare, counted)


def test_both_numbers_are_named_and_an_unknown_machine_refuses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UserError, match=r"^it .*3\.0 GB of memory.*2\.0 GB.*available.*Smaller\.$"):
        refuse_beyond_memory(3_000_000_000, "it", "Smaller.", 2_000_000_000)
    monkeypatch.setattr(machine_memory, "_MACHINE", Path("/nowhere"))
    assert available_memory() is None
    refuse_beyond_memory(10**30, "it", "Smaller.")


@pytest.mark.parametrize("name", ["meta", "meta:0", "cuda:9999", "x" * 5000, "", "cpu:\n"])
def test_a_device_that_holds_no_numbers_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="--device") as caught:
        usable_device(name, "--device")
    assert len(str(caught.value)) < 6000


def test_a_million_classes_are_matched_in_linear_time() -> None:
    names = tuple(f"class {number}" for number in range(200_000))
    begun = time.monotonic()
    found = match_classes(names, len(names), names[::-1], "the teacher")
    assert found.outputs[:2] == (len(names) - 1, len(names) - 2)
    with pytest.raises(UserError, match="does not know"):
        match_classes(names, len(names), (*names[:-1], "other"), "the teacher")
    with pytest.raises(UserError, match="class 0"):
        build_kind("classification", (*names, *names))
    build_kind("classification", names)
    assert nearest("class 10000000", names)
    assert time.monotonic() - begun < 15


def test_a_batch_beyond_memory_is_refused_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    from distill_mtl.training import parts

    recipe = _Recipe()
    monkeypatch.setattr(machine_memory, "available_memory", lambda: 10_000_000_000)
    with pytest.raises(UserError, match=r"micro-batch of 1,048,576 rows .*1\.4 TB of memory, and 10 GB"):
        parts._refuse_beyond_machine(recipe, nn.Linear(2, 2), (224, 224))  # type: ignore[arg-type]


class _Training:
    batch_size, accumulate = 2**20, 1


class _Recipe:
    training = _Training()


def test_arguments_that_leave_out_parts_of_a_network_are_refused() -> None:
    with pytest.raises(UserError, match="the network cannot run"):
        create_trunk(
            StudentSection(model="test_resnet", init="random", args={"layers": []}), pretrained=False
        )
