"""Small worlds on disk, each with a teacher that was trained on its pictures, and the check that a run makes of it.

The main one has coloured pictures, whose classes need every channel.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import toys
import webdataset
from PIL import Image
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from distill_mtl.checks.before_training import run_check
from distill_mtl.networks.inputs import InputContract, Preprocess
from distill_mtl.networks.weights import RecordedScore, write_score
from distill_mtl.recipe import load_recipe
from distill_mtl.students.student_folder import save_student
from distill_mtl.training.parts import Parts, build

# Each channel, in its place and at its brightness, tells something.
COLORS = np.array(
    [[200, 60, 60], [60, 60, 200], [60, 200, 60], [120, 60, 60], [60, 60, 120], [220, 220, 220]]
)
ROWS = 400
Plant = Callable[[Path], None]
"""Changes a teacher's folder."""


def paint(generator: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """uint8 [N, 8, 8, 3]: a colour for each label, with grain."""
    grain = generator.normal(0, 12, (len(labels), toys.SIZE, toys.SIZE, 3))
    return np.clip(COLORS[labels][:, None, None] + grain, 0, 255).astype(np.uint8)


def build_world(folder: Path, *, norm: bool = False) -> Path:
    """Shards of coloured pictures, and a healthy teacher with its recorded score; with BatchNorm if asked."""
    generator = np.random.default_rng(0)
    labels = generator.integers(len(COLORS), size=ROWS)
    return write_world(folder, paint(generator, labels), labels, norm=norm)


def write_world(
    folder: Path,
    images: np.ndarray,
    labels: np.ndarray,
    inputs: InputContract | None = None,
    *,
    norm: bool = False,
) -> Path:
    """Shards of the three sets, and a teacher trained on these pictures as `inputs` says; by default as toys are."""
    for split in ("train", "validation", "test"):
        with webdataset.TarWriter(str(folder / f"{split}.tar"), encoder=False) as writer:
            for row, (image, label) in enumerate(zip(images, labels, strict=True)):
                writer.write({"__key__": f"{row:04d}", "png": _png(image), "cls": str(label).encode()})
    student = toys.toy_student({"color": toys.classification(int(labels.max()) + 1)}, width=8, norm=norm)
    if inputs is not None:
        student.trunk.preprocess = Preprocess(inputs)
    train(lambda pictures: student(pictures)["color"], student, pixels(images), labels)
    save_student(student, folder / "teacher")
    write_score(folder / "teacher", RecordedScore("accuracy", 99.0, rows=ROWS))
    return folder


def pixels(images: np.ndarray) -> Tensor:
    """float [N, 3, H, W] in [0, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def train(answer: Callable[[Tensor], Tensor], module: nn.Module, images: Tensor, labels: np.ndarray) -> None:
    """A second of Adam, until the training rows are known."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    for _ in range(60):
        loss = F.cross_entropy(answer(images), torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def parts(world: Path, teacher: str, split: str | None = None) -> Parts:
    """The run that learns from a teacher, given as the recipe's line would say it, built but not begun."""
    split = split or f"{{validation: {world}/validation.tar, test: {world}/test.tar}}"
    text = f"""
student: {{model: "toy:net", init: random}}
tasks:
  color:
    teacher: {teacher}
    data: {{shards: {world}/train.tar, split: {split}}}
"""
    recipe = world / "recipe.yaml"
    recipe.write_text(text)
    return build(load_recipe(recipe))


def check(world: Path, teacher: str) -> float:
    """What a run does before its first step; gives the teacher's score."""
    found = run_check(parts(world, teacher), torch.device("cpu"), Console(quiet=True))["color"]
    assert found.measured is not None
    return found.measured.score


def line(folder: Path, **keys: object) -> str:
    """The recipe's line for a teacher's folder."""
    return json.dumps({"path": str(folder), **keys})


def copy_of(teacher: Path, folder: Path, change: Plant | None = None) -> Path:
    """A copy of a teacher's folder, with a mistake in it."""
    folder.mkdir()
    for file in teacher.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    if change is not None:
        change(folder)
    return folder


def contract(**changes: object) -> Plant:
    """A config.json that says something else about the input."""

    def plant(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["trunk"]["inputs"].update(changes)
        (folder / "config.json").write_text(json.dumps(config))

    return plant


def _png(picture: np.ndarray) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, "PNG")
    return encoded.getvalue()
