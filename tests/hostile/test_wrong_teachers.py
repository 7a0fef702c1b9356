"""Teachers with a mistake that leaves them better than a constant answer: the check names it, or asks.

A tick is for what was measured and found right, never for a number that nobody can have measured.
"""

import json
from collections.abc import Callable
from pathlib import Path

import colors
import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from distill_mtl.checks import better_reading
from distill_mtl.checks.before_training import run_check
from distill_mtl.checks.teacher_check import TeacherCheck, check_teachers
from distill_mtl.errors import TeacherError
from distill_mtl.networks.inputs import InputContract
from distill_mtl.students.student_folder import load_student, save_student

Plant = Callable[[Path], None]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colors.build_world(tmp_path_factory.mktemp("colors"))


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of the labels are drawn at random, so that the best teacher scores about 58."""
    folder = tmp_path_factory.mktemp("noisy")
    generator = np.random.default_rng(0)
    labels = generator.integers(len(colors.COLORS), size=colors.ROWS)
    pictures = colors.paint(generator, labels)
    drawn = generator.integers(len(colors.COLORS), size=colors.ROWS)
    return colors.write_world(folder, pictures, np.where(generator.random(colors.ROWS) < 0.5, labels, drawn))


def examine(world: Path, teacher: str) -> TeacherCheck:
    parts = colors.parts(world, teacher)
    return check_teachers(parts.recipe, parts.teachers, parts.kinds, parts.sources, torch.device("cpu"))[
        "color"
    ]


def planted(world: Path, folder: Path, change: Plant, *, recorded: bool = False) -> str:
    """A copy of the healthy teacher with a mistake, and without its recorded score unless asked."""

    def plant(copy: Path) -> None:
        score = (copy / "score.json").read_text()
        change(copy)
        (copy / "score.json").unlink(missing_ok=True)
        if recorded:
            (copy / "score.json").write_text(score)

    return str(colors.copy_of(world / "teacher", folder / "teacher", plant))


def head(change: Callable[[Tensor], Tensor]) -> Plant:
    def plant(folder: Path) -> None:
        student = load_student(folder).student
        linear = student.heads["color"].linear
        assert isinstance(linear, nn.Linear)
        linear.weight.data, linear.bias.data = change(linear.weight.data), change(linear.bias.data)
        save_student(student, folder)

    return plant


def scored(text: str) -> Plant:
    """A random head, and this in score.json."""

    def plant(folder: Path) -> None:
        head(torch.randn_like)(folder)
        (folder / "score.json").write_text(text)

    return plant


@pytest.mark.parametrize(
    ("score", "finding"),
    [
        ('{"metric": "accuracy", "score": NaN}', "nan"),
        ('{"metric": "accuracy", "score": -Infinity, "rows": 9}', "-inf"),
        ('{"metric": "accuracy", "score": 1e999}', "inf"),
        ('{"metric": "accuracy", "score": 90, "rows": 0}', "rows"),
        ('{"metric": "accuracy", "score": 90, "rows": -3}', "rows"),
        ('{"metric": "accuracy", "score": 90, "rows": NaN}', "rows"),
        ('{"metric": "accuracy", "score": -5.0}', "constant answer"),
    ],
)
def test_a_recorded_score_that_nobody_can_have_measured_is_no_tick(
    world: Path, tmp_path: Path, score: str, finding: str
) -> None:
    folder = colors.copy_of(world / "teacher", tmp_path / "teacher", scored(score))
    with pytest.raises(TeacherError, match=f"(?i){finding}") as caught:
        colors.check(world, str(folder))
    assert "\n" not in str(caught.value)


def nan_in_one(weight: Tensor) -> Tensor:
    weight = weight.clone()
    weight[0] = torch.nan
    return weight


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize(
    ("change", "findings"),
    [
        (
            head(nan_in_one),
            ["not finite", "400 of 400", "weights are not finite", "head.linear.weight"],
        ),
        (head(lambda weight: weight.float().fill_(torch.inf)), ["not finite", "linear"]),
        (head(lambda weight: weight[[1, 0, 2, 3, 4, 5]]), ["order: class1, class0, class2"]),
        (colors.contract(mean=[0.0] * 3, std=[1.0] * 3), ["[-1, 1]", "mean: [0.5, 0.5, 0.5]"]),
        (colors.contract(channels="bgr"), ["BGR", "channels: rgb"]),
    ],
    ids=["NaN head", "infinite head", "one swapped pair", "normalisation", "bgr"],
)
def test_a_planted_mistake_is_named_with_and_without_a_recorded_score(
    world: Path, tmp_path: Path, change: Plant, findings: list[str], recorded: bool
) -> None:
    found = examine(world, planted(world, tmp_path, change, recorded=recorded))
    assert found.problem is not None
    for finding in findings:
        assert finding in found.problem


def test_batchnorm_without_statistics_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "world"
    folder.mkdir()
    world = colors.build_world(folder, norm=True)
    assert examine(world, str(world / "teacher")).passed is True

    def reset(teacher: Path) -> None:
        student = load_student(teacher).student
        for module in student.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
        save_student(student, teacher)

    found = examine(world, planted(world, tmp_path, reset, recorded=True))
    assert "BatchNorm layers have no statistics" in str(found.problem)


def test_a_size_that_is_far_from_the_right_one_is_named(tmp_path: Path) -> None:
    """Stripes of three widths: in another size, they are taken for each other."""
    generator = np.random.default_rng(0)
    labels = generator.integers(3, size=200)
    phases = generator.integers(16, size=(200, 1))
    stripes = (np.arange(16) + phases) // np.array([2, 4, 8])[labels][:, None] % 2 * 160
    images = stripes[:, None, :, None] + generator.integers(0, 40, (200, 16, 16, 3))
    right = InputContract((16, 16), (0.5,) * 3, (0.5,) * 3)
    world = colors.write_world(tmp_path, images.astype(np.uint8), labels, right)
    colors.contract(size=[48, 48])(world / "teacher")
    for recorded in (True, False):
        if not recorded:
            (world / "teacher" / "score.json").unlink()
        assert "input: {size: 16}" in str(examine(world, str(world / "teacher")).problem)


def dark(folder: Path, channels: str) -> Path:
    """Dark pictures of little contrast, and a network that was trained with their own mean and std."""
    generator = np.random.default_rng(0)
    labels = generator.integers(5, size=colors.ROWS)
    shades = np.array([10, 14, 18, 22, 26])[labels][:, None, None, None]
    images = np.clip(shades + generator.normal(0, 3, (colors.ROWS, 8, 8, 3)), 0, 255).astype(np.uint8)
    inputs = InputContract((8, 8), (0.07,) * 3, (0.025,) * 3, channels=channels)  # type: ignore[arg-type]
    world = colors.write_world(folder, images, labels, inputs)
    (world / "teacher" / "score.json").unlink()
    return world


@pytest.mark.parametrize("channels", ["rgb", "grey3"])
def test_the_statistics_of_ones_own_pictures_are_among_the_readings(tmp_path: Path, channels: str) -> None:
    world = dark(tmp_path, channels)
    assert examine(world, str(world / "teacher")).problem is None
    colors.contract(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])(world / "teacher")
    assert "mean and std of your own pictures" in str(examine(world, str(world / "teacher")).problem)


def test_a_mistake_that_costs_little_is_asked_about_and_the_run_goes_on(noisy: Path, tmp_path: Path) -> None:
    """Two classes are swapped: 17 points of the 60 that the labels leave to gain."""
    teacher = planted(noisy, tmp_path, head(lambda weight: weight[[1, 0, 2, 3, 4, 5]]))
    found = examine(noisy, teacher)
    assert found.problem is None
    assert found.passed is None
    assert found.doubt is not None
    for finding in (teacher, "order: class1, class0, class2", "95 % interval from", "expect: "):
        assert finding in found.doubt
    with Console(width=200).capture() as _:
        run_check(colors.parts(noisy, teacher), torch.device("cpu"), Console(quiet=True))
    expect = float(found.doubt.rpartition("expect: ")[2].rstrip("`."))
    stated = examine(noisy, colors.line(Path(teacher), expect=expect))
    assert (stated.problem, stated.doubt) == (None, None)


def test_two_swapped_classes_that_few_rows_do_not_decide_are_found_on_more(
    noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(better_reading, "MORE", 24)
    found = examine(noisy, planted(noisy, tmp_path, head(lambda weight: weight[[1, 0, 2, 3, 4, 5]])))
    assert "order: class1, class0, class2" in str(found.doubt)
    assert "400 rows" in str(found.doubt)


def test_a_weak_teachers_wrong_normalisation_is_named_and_a_random_head_is_not_taken_for_one(
    noisy: Path, tmp_path: Path
) -> None:
    """Read in the right way it scores 58, so that most of the way to a perfect score is not made good."""
    for place, change, named in (
        ("a", colors.contract(mean=[0.0] * 3, std=[1.0] * 3), "mean: [0.5, 0.5, 0.5]"),
        ("b", head(lambda weight: weight * 0), "weights of another task"),
    ):
        (tmp_path / place).mkdir()
        assert named in str(examine(noisy, planted(noisy, tmp_path / place, change)).problem)


def test_a_recorded_score_does_not_hide_a_better_reading(noisy: Path, tmp_path: Path) -> None:
    """It may have been measured with the same mistake."""
    teacher = planted(noisy, tmp_path, head(lambda weight: weight[[1, 0, 2, 3, 4, 5]]))
    measured = examine(noisy, teacher).measured
    assert measured is not None
    entry = {"metric": "accuracy", "score": measured.score, "rows": 400}
    (Path(teacher) / "score.json").write_text(json.dumps(entry))
    found = examine(noisy, teacher)
    assert found.problem is None
    assert "order: class1, class0, class2" in str(found.doubt)


def test_a_low_score_that_nothing_explains_is_asked_about(noisy: Path, tmp_path: Path) -> None:
    """As with the weights of another task: brighter than a constant answer, and nothing says what to expect."""

    def forgetful(weight: Tensor) -> Tensor:
        weight = weight.clone()
        weight[3:] = weight[3:] * 0 - (9 if weight.ndim == 1 else 0)
        return weight

    found = examine(noisy, planted(noisy, tmp_path, head(forgetful)))
    assert found.problem is None
    assert "right weights" in str(found.doubt)


@pytest.mark.parametrize("recorded", [True, False])
def test_a_healthy_teacher_is_not_doubted(world: Path, noisy: Path, tmp_path: Path, recorded: bool) -> None:
    """Of noisy labels nobody knows what to expect, so that a record must say it."""
    for place, data in (("a", world), ("b", noisy))[: 1 + recorded]:
        (tmp_path / place).mkdir()
        teacher = planted(data, tmp_path / place, lambda folder: None)
        if recorded:
            measured = examine(data, teacher).measured
            assert measured is not None
            entry = {"metric": "accuracy", "score": measured.score, "rows": 400}
            (Path(teacher) / "score.json").write_text(json.dumps(entry))
        found = examine(data, teacher)
        assert (found.problem, found.doubt, found.passed) == (None, None, True)


def test_a_teacher_is_measured_on_rows_that_it_cannot_have_learned(tmp_path: Path) -> None:
    """Validation rows are cut from the shards that it was trained on; the test shards are of another kind."""
    learned, other = tmp_path / "learned", tmp_path / "other"
    learned.mkdir()
    other.mkdir()
    colors.build_world(learned)
    generator = np.random.default_rng(1)
    labels = generator.integers(len(colors.COLORS), size=colors.ROWS)
    pictures = 255 - colors.paint(generator, labels)
    colors.write_world(other, pictures, labels)
    split = f"{{test: {other}/test.tar}}"
    found = {}
    for name, shards in (("learned", split), ("none", "{}")):
        parts = colors.parts(learned, str(learned / "teacher"), split=shards)
        found[name] = check_teachers(
            parts.recipe, parts.teachers, parts.kinds, parts.sources, torch.device("cpu")
        )["color"]
    assert (found["none"].split, found["none"].problem, found["none"].learned) == ("validation", None, None)
    unseen = found["learned"]
    assert unseen.split == "test"
    assert unseen.learned is not None
    assert unseen.learned.score > 97
    assert unseen.measured is not None
    assert unseen.measured.score < 50
    assert "99.00" in str(unseen.problem)
