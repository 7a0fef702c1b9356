"""Mistakes planted in a teacher that was really trained; the check must find each and name its cause."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import toys
import webdataset
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from distill_mtl.assembly.build import build_teachers
from distill_mtl.checks.teachers import Examined, examine_teachers, refuse_bad_teachers
from distill_mtl.data import open_sources
from distill_mtl.errors import TeacherError
from distill_mtl.recipe import load_recipe
from distill_mtl.students.folder import load_student, save_student
from distill_mtl.teachers.score import RecordedScore, write_score

# Colours whose classes need every channel, in its place and at its brightness.
COLORS = np.array(
    [[200, 60, 60], [60, 60, 200], [60, 200, 60], [120, 60, 60], [60, 60, 120], [220, 220, 220]]
)
Plant = Callable[[Path], None]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of coloured pictures and a teacher trained on them, with its recorded score."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("world")
    generator = np.random.default_rng(0)
    labels = generator.integers(len(COLORS), size=400)
    images = np.clip(COLORS[labels][:, None, None] + generator.normal(0, 12, (400, 8, 8, 3)), 0, 255).astype(
        np.uint8
    )
    for split in ("train", "validation", "test"):
        with webdataset.TarWriter(str(folder / f"{split}.tar"), encoder=False) as writer:
            for row, (image, label) in enumerate(zip(images, labels, strict=True)):
                writer.write({"__key__": f"{row:04d}", "png": _png(image), "cls": str(label).encode()})
    student = toys.toy_student({"color": toys.classification(len(COLORS))}, width=8)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.02)
    pictures = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    for _ in range(60):
        loss = F.cross_entropy(student(pictures)["color"], torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_student(student, folder / "teacher")
    write_score(folder / "teacher", RecordedScore("accuracy", 99.0, rows=400))
    return folder


def test_a_healthy_teacher_passes(world: Path) -> None:
    result = _examine(world)
    assert result.problem is None
    assert result.measured is not None
    assert result.measured.score > 97


def test_a_healthy_teacher_without_a_recorded_score_passes(world: Path, tmp_path: Path) -> None:
    assert (
        _examine(world, _planted(world, tmp_path, lambda folder: (folder / "score.json").unlink())).problem
        is None
    )


def _contract(**changes: object) -> Plant:
    def plant(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["trunk"]["inputs"].update(changes)
        (folder / "config.json").write_text(json.dumps(config))

    return plant


def _head(change: Callable[[Tensor], Tensor]) -> Plant:
    def plant(folder: Path) -> None:
        student = load_student(folder).student
        linear = student.heads["color"].linear
        assert isinstance(linear, nn.Linear)
        linear.weight.data, linear.bias.data = change(linear.weight.data), change(linear.bias.data)
        score = (folder / "score.json").read_text()
        save_student(student, folder)
        (folder / "score.json").write_text(score)

    return plant


@pytest.mark.parametrize(
    ("plant", "cause"),
    [
        (_contract(mean=[0.0] * 3, std=[1.0] * 3), r"images in \[-1, 1\]"),
        (_contract(mean=[-1.0] * 3, std=[2.0] * 3), r"images in \[-1, 1\]"),
        (_contract(mean=[0.0] * 3, std=[1.0] * 3, white=255.0), r"images in \[-1, 1\]"),
        (_contract(channels="bgr"), "colours in the opposite order"),
        (
            _head(lambda tensor: tensor[[2, 0, 1, 5, 3, 4]]),
            "classes in another order: class2, class0, class1",
        ),
        (_head(lambda tensor: torch.randn_like(tensor)), "right weights"),
    ],
    ids=["normalisation", "statistics", "range", "bgr", "permuted classes", "random head"],
)
def test_a_planted_mistake_is_found_and_its_cause_named(
    world: Path, tmp_path: Path, plant: Plant, cause: str
) -> None:
    result = _examine(world, _planted(world, tmp_path, plant))
    assert result.problem is not None
    with pytest.raises(TeacherError, match=cause) as error:
        refuse_bad_teachers({"color": result})
    assert "tasks.color.teacher" in str(error.value)
    assert "expected 99.00" in str(error.value)


def test_a_teacher_whose_answers_depend_on_the_batch_is_named(world: Path) -> None:
    """As those of a network that normalises over the batch, only plainer."""
    recipe = _recipe(world, world / "teacher")
    teachers, kinds = build_teachers(recipe)
    first = teachers["color"].network.backbone.model.first

    def next_row(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output.roll(1, dims=0)

    first.register_forward_hook(next_row)
    sources = open_sources(recipe, kinds, (8, 8))
    result = examine_teachers(recipe, teachers, kinds, sources, torch.device("cpu"))["color"]
    assert result.problem is not None
    assert "depend on the other rows" in result.problem


def test_without_a_recorded_score_a_teacher_near_a_constant_answer_is_refused(
    world: Path, tmp_path: Path
) -> None:
    def plant(folder: Path) -> None:
        _head(torch.zeros_like)(folder)
        (folder / "score.json").unlink()

    problem = _examine(world, _planted(world, tmp_path, plant)).problem
    assert problem is not None
    assert "constant answer" in problem


def test_the_recipe_overrides_the_recorded_score(world: Path, tmp_path: Path) -> None:
    folder = _planted(world, tmp_path, _head(torch.zeros_like))
    assert _examine(world, folder).problem is not None
    assert _examine(world, folder, expect=15.0).problem is None


def _planted(world: Path, folder: Path, plant: Plant) -> Path:
    """A copy of the healthy teacher with a mistake in it."""
    copy = folder / "teacher"
    copy.mkdir()
    for file in (world / "teacher").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    plant(copy)
    return copy


def _examine(world: Path, teacher: Path | None = None, expect: float | None = None) -> Examined:
    recipe = _recipe(world, teacher or world / "teacher", expect)
    teachers, kinds = build_teachers(recipe)
    sources = open_sources(recipe, kinds, (8, 8))
    return examine_teachers(recipe, teachers, kinds, sources, torch.device("cpu"))["color"]


def _recipe(world: Path, teacher: Path, expect: float | None = None):
    text = f"""
student: {{model: "toy:net", init: random}}
tasks:
  color:
    teacher: {{path: {teacher}, expect: {json.dumps(expect)}}}
    data: {{shards: {world}/train.tar, split: {{validation: {world}/validation.tar, test: {world}/test.tar}}}}
"""
    path = world / "recipe.yaml"
    path.write_text(text)
    return load_recipe(path)


def _png(pixels: np.ndarray) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    return encoded.getvalue()
