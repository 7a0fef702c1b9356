"""The usual mistakes, planted in a teacher that was really trained: what a run does first must name each."""

from collections.abc import Callable
from pathlib import Path

import colors
import numpy as np
import pytest
import torch
import toys
from rich.console import Console
from torch import Tensor, nn

from distill_mtl.checks.before_training import run_check
from distill_mtl.errors import TeacherError
from distill_mtl.networks.inputs import InputContract
from distill_mtl.students.student_folder import load_student, save_student


def head(change: Callable[[Tensor], Tensor]) -> colors.Plant:
    """Another last layer."""

    def plant(folder: Path) -> None:
        student, score = load_student(folder).student, (folder / "score.json").read_text()
        linear = student.heads["color"].linear
        assert isinstance(linear, nn.Linear)
        linear.weight.data, linear.bias.data = change(linear.weight.data), change(linear.bias.data)
        save_student(student, folder)
        (folder / "score.json").write_text(score)

    return plant


def other_task(folder: Path) -> None:
    """Weights that were trained on something else of the same pictures: whether they are bright, and no more."""
    score = (folder / "score.json").read_text()
    generator = np.random.default_rng(1)
    labels = generator.integers(len(colors.COLORS), size=colors.ROWS)
    pictures = colors.pixels(colors.paint(generator, labels))
    student = toys.toy_student({"color": toys.classification(len(colors.COLORS))}, width=1)
    bright = (colors.COLORS.sum(1) > 300)[labels].astype(np.int64)
    colors.train(lambda images: student(images)["color"], student, pictures, bright)
    save_student(student, folder)
    (folder / "score.json").write_text(score)


@pytest.mark.parametrize(
    ("plant", "cause", "remedy"),
    [
        (
            colors.contract(mean=[0.0] * 3, std=[1.0] * 3),
            r"\[-1, 1\]",
            "input: {mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}",
        ),
        (colors.contract(mean=[-1.0] * 3, std=[2.0] * 3), r"\[-1, 1\]", "mean: [0.5, 0.5, 0.5]"),
        (colors.contract(mean=[0.0] * 3, std=[1.0] * 3, white=255.0), r"\[-1, 1\]", "white: 1.0"),
        (colors.contract(channels="bgr"), "BGR", "`input: {channels: rgb}`"),
        (
            head(lambda tensor: tensor[[2, 0, 1, 5, 3, 4]]),
            "order: class2, class0, class1, class5, class3, class4 ",
            "`classes` in this order",
        ),
        (
            head(torch.randn_like),
            r"last layer looks random.*probe",
            "num_classes changed",
        ),
        (other_task, "weights of another task", "sha256"),
    ],
    ids=["normalisation", "statistics", "range", "bgr", "permuted classes", "random head", "other weights"],
)
def test_its_cause_and_its_remedy_are_named(
    world: Path, tmp_path: Path, plant: colors.Plant, cause: str, remedy: str
) -> None:
    folder = colors.copy_of(world / "teacher", tmp_path / "teacher", plant)
    with pytest.raises(TeacherError, match=cause) as caught:
        colors.check(world, str(folder))
    assert "99.00" in str(caught.value)
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_remedy_of_the_message_mends_a_wrong_input(world: Path, tmp_path: Path) -> None:
    folder = colors.copy_of(world / "teacher", tmp_path / "teacher", colors.contract(channels="bgr"))
    assert colors.check(world, colors.line(folder, input={"channels": "rgb"})) > 97


def test_an_answer_that_depends_on_the_batch_is_named_whatever_it_scores(world: Path) -> None:
    """As that of a network that normalises over the batch, only plainer."""
    parts = colors.parts(world, colors.line(world / "teacher", expect=0))
    first = parts.teachers["color"].network.backbone.model.first

    def next_row(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output.roll(1, dims=0)

    first.register_forward_hook(next_row)
    with pytest.raises(TeacherError, match=r"batch.*model\.eval\(\)"):
        run_check(parts, torch.device("cpu"), Console(quiet=True))


def test_a_wrong_size_is_named(tmp_path: Path) -> None:
    """Stripes of three widths: seen twice as large, they are taken for each other."""
    generator = np.random.default_rng(0)
    labels = generator.integers(3, size=colors.ROWS)
    phases = generator.integers(16, size=(colors.ROWS, 1))
    stripes = (np.arange(16) + phases) // np.array([2, 4, 8])[labels][:, None] % 2 * 160
    images = stripes[:, None, :, None] + generator.integers(0, 40, (colors.ROWS, 16, 16, 3))
    world = colors.write_world(
        tmp_path, images.astype(np.uint8), labels, InputContract((16, 16), (0.5,) * 3, (0.5,) * 3)
    )
    assert colors.check(world, str(world / "teacher")) > 97
    colors.contract(size=[32, 32])(world / "teacher")
    with pytest.raises(TeacherError, match=r"16x16.*`input: \{size: 16\}`"):
        colors.check(world, str(world / "teacher"))


def test_a_network_of_grey_pictures_is_named(tmp_path: Path) -> None:
    """Four brightnesses in all hues: colours mean nothing to a network that never saw any."""
    generator = np.random.default_rng(0)
    labels = generator.integers(4, size=colors.ROWS)
    hues = generator.dirichlet((0.4, 0.4, 0.4), colors.ROWS)
    luma = np.array([40, 60, 80, 100])[labels] / (hues @ np.array([0.299, 0.587, 0.114]))
    images = np.minimum(luma[:, None] * hues, 255)[:, None, None].repeat(8, 1).repeat(8, 2)
    grey = InputContract((8, 8), (0.5,) * 3, (0.5,) * 3, channels="grey3")
    world = colors.write_world(tmp_path, images.astype(np.uint8), labels, grey)
    healthy = colors.check(world, colors.line(world / "teacher", expect=50))
    colors.contract(channels="rgb")(world / "teacher")
    with pytest.raises(TeacherError, match=r"`input: \{channels: grey3\}`"):
        colors.check(world, colors.line(world / "teacher", expect=healthy))


@pytest.mark.parametrize(
    ("plant", "cause"),
    [
        (colors.contract(mean=[0.0] * 3, std=[1.0] * 3), r"\[-1, 1\]"),
        (colors.contract(channels="bgr"), "BGR"),
    ],
    ids=["normalisation", "bgr"],
)
def test_a_wrong_preprocessing_is_named_without_an_expected_score(
    world: Path, tmp_path: Path, plant: colors.Plant, cause: str
) -> None:
    folder = colors.copy_of(world / "teacher", tmp_path / "teacher", plant)
    (folder / "score.json").unlink()
    with pytest.raises(TeacherError, match=cause) as caught:
        colors.check(world, str(folder))
    expect = float(str(caught.value).rpartition("expect: ")[2].rstrip("`."))
    assert colors.check(world, colors.line(folder, expect=expect)) == pytest.approx(expect, abs=0.1)
