"""Which precision a teacher's targets are made in. What is faster is the machine's affair; the rest is ours."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
import toys

from distill_mtl.checks import precision
from distill_mtl.checks.precision import choose_precision
from distill_mtl.data.batch import Batch
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.teachers.load_teacher import load_teacher
from distill_mtl.teachers.teacher import Teacher

KIND = toys.classification(3)


def rows(limit: int | None) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(32, 3, toys.SIZE, toys.SIZE, generator=generator)
    labels = {"hue": torch.randint(3, (32,), generator=generator)}
    everyone = torch.ones(32, dtype=torch.bool)
    keys = [str(row) for row in range(32)]
    yield Batch(images, labels, {"hue": everyone}, keys, torch.zeros(32, dtype=torch.int64), groups=keys)


@pytest.fixture
def teacher(tmp_path: Path) -> Teacher:
    toys.toy_teacher_folder(tmp_path, "hue", KIND)
    return load_teacher(TeacherSection(path=str(tmp_path)), task="hue")


def choose(teacher: Teacher, score: float | None, **section: object) -> str:
    said = TeacherSection(path="t", **section)
    return choose_precision(said, teacher, KIND, "hue", rows, score)


def pretend(monkeypatch: pytest.MonkeyPatch, fp32: float, bf16: float) -> None:
    monkeypatch.setattr(precision, "_fastest", lambda *_: {"fp32": fp32, "bf16": bf16})


def test_a_large_teacher_that_is_faster_and_as_good_answers_in_bf16(
    teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, fp32=1.0, bf16=0.5)
    assert choose(teacher, score=0.0) == "bf16"


@pytest.mark.parametrize(("fp32", "bf16"), [(1.0, 0.9), (0.01, 0.001)])
def test_little_gain_and_small_teachers_are_not_worth_it(
    teacher: Teacher, monkeypatch: pytest.MonkeyPatch, fp32: float, bf16: float
) -> None:
    pretend(monkeypatch, fp32, bf16)
    assert choose(teacher, score=0.0) == "fp32"


def test_a_score_that_would_be_lost_is_kept(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, fp32=1.0, bf16=0.5)
    assert choose(teacher, score=100.0) == "fp32"
    assert choose(teacher, score=None) == "fp32"


def test_the_recipe_decides_where_it_says_something(teacher: Teacher) -> None:
    assert choose(teacher, score=None, precision="bf16") == "bf16"


def test_both_precisions_are_really_timed(teacher: Teacher) -> None:
    assert choose(teacher, score=0.0) == "fp32"


def test_a_teacher_that_is_fast_enough_in_fp32_is_timed_once_and_in_nothing_else():
    run = []
    ways = {name: partial(run.append, name) for name in ("fp32", "bf16")}
    assert list(precision._fastest(ways, torch.zeros(1), worth=60.0)) == ["fp32"]
    assert run == ["fp32"]
    assert list(precision._fastest(ways, torch.zeros(1), worth=0.0)) == ["fp32", "bf16"]
