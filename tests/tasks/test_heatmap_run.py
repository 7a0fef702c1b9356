"""Boxes through shards, training, a teacher's folder and the cache: bright squares are found on small pictures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_world
import toys
from torch import nn

from distill_mtl import distill, load_recipe, load_student
from distill_mtl.checks.members import find_label
from distill_mtl.checks.recipe_draft import draft
from distill_mtl.data.index import load_index
from distill_mtl.errors import ShardError, TeacherError
from distill_mtl.jobs.cache import write_cache
from distill_mtl.jobs.one_teacher import check_teacher
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.students.student_folder import save_student
from distill_mtl.tasks.base import TaskKind, build_kind
from distill_mtl.teachers.load_teacher import load_teacher
from distill_mtl.training.parts import build

pytestmark = pytest.mark.usefixtures("short_runs")
SIDE = 32
CLASSES = ("warm", "cold")


def squares(generator: np.random.Generator) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """A dark picture with one to three bright squares, red or blue, and where they are."""
    pixels = generator.integers(0, 40, (SIDE, SIDE, 3)).astype(np.uint8)
    objects: list[dict[str, Any]] = []
    taken = np.zeros((SIDE, SIDE), bool)
    for _ in range(int(generator.integers(1, 4))):
        side = int(generator.integers(6, 12))
        left, top = generator.integers(0, SIDE - side, 2).tolist()
        if taken[top : top + side, left : left + side].any():
            continue
        number = int(generator.integers(2))
        taken[top : top + side, left : left + side] = True
        pixels[top : top + side, left : left + side, 2 * number] = 255
        objects.append({"class": CLASSES[number], "box": [left, top, side, side]})
    return pixels, objects


def write(path: Path, rows: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    samples = []
    for row in range(rows):
        pixels, objects = squares(generator)
        label = json.dumps(objects).encode()
        samples.append(
            {"__key__": f"{path.stem}-{row:04d}", "png": toy_world.png(pixels), "boxes.json": label}
        )
    toy_world.write_rows(path, samples)


def recipe(world: Path, task: str, *, steps: int) -> str:
    return f"""
student: {{model: "toy:net", args: {{width: 12}}, init: random, input_size: {SIDE}}}
tasks:
  square:
    kind: heatmap
    classes: [warm, cold]
    options: {{max_objects: 4, top: 8}}
    {task}
    data:
      shards: {world}/train.tar
      split: {{validation: {world}/validation.tar, test: {world}/test.tar}}
      augment: {{flip: true, crop: [0.6, 1.0], color: 0}}
training: {{steps: {steps}, batch_size: 32, log_every: 100, checkpoint_every: 1000}}
optimizer: {{lr: 0.01}}
evaluation: {{bootstrap: 100}}
acceptance: 100
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, and in `first` a network that learned from the labels."""
    folder = tmp_path_factory.mktemp("squares")
    write(folder / "train.tar", 256, 0)
    write(folder / "validation.tar", 32, 2)
    write(folder / "test.tar", 64, 1)
    (folder / "first.yaml").write_text(recipe(folder, "hints: []", steps=160))
    distill(load_recipe(folder / "first.yaml"), out=folder / "first")
    return folder


def score(run: Path) -> float:
    return float(json.loads((run / "results.json").read_text())["tasks"]["square"]["student"])


def test_a_small_network_learns_to_find_squares(world: Path) -> None:
    assert score(world / "first") > 60


def taught(world: Path, folder: Path, *, steps: int) -> Path:
    """The recipe of a student that hears the teacher's soft targets alone, labels and hints weigh nothing."""
    line = f"""teacher: {{path: {world}/first/student, expect: 0}}
    weights: {{supervised: 0}}
    hints: []"""
    (folder / "second.yaml").write_text(
        recipe(world, line, steps=steps).replace("training: {", "training: {teachers_on: all, ")
    )
    return folder / "second.yaml"


def test_a_student_learns_them_from_a_teachers_folder_without_labels(world: Path, tmp_path: Path) -> None:
    distill(load_recipe(taught(world, tmp_path, steps=120)), out=tmp_path / "second")
    assert score(tmp_path / "second") > 60


def test_heat_maps_are_cached_in_fp16_whatever_logits_are_kept_in(world: Path, tmp_path: Path) -> None:
    path = taught(world, tmp_path, steps=3)
    overrides = ["targets.logits=int8", "targets.from=cached"]
    write_cache(path, overrides)
    parts = build(load_recipe(path, overrides))
    assert parts.cached is not None
    batch = next(iter(parts.sources.stream(steps=1)))
    kept = parts.cached.ask("square", batch).logits
    said = load_teacher(TeacherSection(path=str(world / "first" / "student")), task="square")(
        batch.images / 255
    )
    assert (kept - said.logits).abs().max() < 0.01  # with int8's scale of a row it would be three times that


def test_the_exported_student_answers_in_pixels(world: Path) -> None:
    student = load_student(world / "first" / "student")
    pixels, objects = squares(np.random.default_rng(99))
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    answer = student(image)["square"]
    assert answer["boxes"].shape == (1, 8, 4)
    assert answer["scores"].shape == (1, 8)
    left, top, width, height = objects[0]["box"]
    truth = torch.tensor([left, top, left + width, top + height])
    sure = answer["boxes"][0][answer["scores"][0] > 0.3]
    assert len(sure) > 0
    assert (sure - truth).abs().amax(1).min() < 4


def test_labels_survive_shards_crop_and_flip(world: Path, tmp_path: Path) -> None:
    """A box read from a shard frames the bright pixels of the picture beside it, under every view."""
    (tmp_path / "rows.yaml").write_text(recipe(world, "hints: []", steps=3))
    sources = build(load_recipe(tmp_path / "rows.yaml", ["student.input_size=64"])).sources
    checked = 0
    for batch in sources.stream(steps=3):
        labels = batch.labels["square"]
        assert labels.shape == (32, 4, 5)
        assert batch.labelled["square"].all()
        for image, label in zip(batch.images, labels, strict=True):
            bright = image.float()
            for number, x, y, w, h in label[label[:, 0] >= 0].tolist():
                channel = bright[2 * int(number)] > 127
                columns = slice(max(0, round(64 * (x - w / 2)) + 1), round(64 * (x + w / 2)) - 1)
                lines = slice(max(0, round(64 * (y - h / 2)) + 1), round(64 * (y + h / 2)) - 1)
                assert channel[lines, columns].float().mean() > 0.95
                checked += 1
    assert checked > 100


# ---- teachers -------------------------------------------------------------------------------------
def saved(folder: Path, kind: TaskKind) -> Path:
    save_student(toys.toy_student({"spot": kind}), folder)
    return folder


@pytest.mark.parametrize("form", ["boxes", "points"])
def test_a_teachers_folder_says_its_form(tmp_path: Path, form: str) -> None:
    place = saved(tmp_path / "t", build_kind("heatmap", ("a", "b", "c"), form=form))
    section = TeacherSection(path=str(place))
    teacher = load_teacher(section, task="spot")
    assert teacher.card.classes == ("a", "b", "c")
    assert teacher.card.options == {"form": form}
    assert type(teacher.card).from_dict(json.loads(json.dumps(teacher.card.to_dict()))) == teacher.card
    turned = load_teacher(
        section, task="spot", kind="heatmap", classes=("c", "a", "b"), options={"form": form}
    )
    images = torch.rand(2, 3, 8, 8)
    mine, theirs = turned(images).logits, teacher(images).logits
    assert torch.equal(mine[:, :3], theirs[:, [2, 0, 1]])
    assert torch.equal(mine[:, 3:], theirs[:, 3:])
    assert turned.card.fingerprint != teacher.card.fingerprint


def test_a_teacher_of_the_other_form_is_refused(tmp_path: Path) -> None:
    place = saved(tmp_path / "t", build_kind("heatmap", ("a", "b", "c"), form="points"))
    with pytest.raises(TeacherError, match=r"Write `options: \{form: points\}`"):
        load_teacher(TeacherSection(path=str(place)), task="spot", kind="heatmap", options={})


def test_a_teacher_that_lacks_a_class_is_refused(tmp_path: Path) -> None:
    place = saved(tmp_path / "t", build_kind("heatmap", ("a", "b")))
    with pytest.raises(TeacherError, match="must know all"):
        load_teacher(
            TeacherSection(path=str(place)), task="spot", kind="heatmap", classes=("a", "b", "c"), options={}
        )


class Deployed(nn.Module):
    """As networks with centre points are exported: the heat has passed its sigmoid, sizes and offsets are numbers."""

    def __init__(self, further: int) -> None:
        super().__init__()
        self.maps = nn.Conv2d(3, 2 + further, 3, stride=2, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.maps(images)
        return torch.cat([maps[:, :2].sigmoid(), 9 * maps[:, 2:]], 1)


@pytest.mark.parametrize(("form", "further"), [("boxes", 4), ("points", 2)])
def test_a_deployed_network_gives_probabilities_of_heat_alone(
    tmp_path: Path, form: str, further: int
) -> None:
    deployed = Deployed(further).eval()
    torch.jit.save(torch.jit.trace(deployed, torch.rand(1, 3, 16, 16)), tmp_path / "t.pt")
    inputs = {"size": 16, "mean": [0, 0, 0], "std": [1, 1, 1]}
    section = TeacherSection(path=str(tmp_path / "t.pt"), trust=True, classes=list(CLASSES), input=inputs)
    teacher = load_teacher(section, task="spot", kind="heatmap", options={"form": form})
    assert teacher.network.gives == "probabilities"
    assert teacher.card.classes == CLASSES
    images = torch.rand(3, 3, 16, 16)
    logits, answer = teacher(images).logits, deployed(images)
    torch.testing.assert_close(logits[:, :2].sigmoid(), answer[:, :2])
    assert torch.equal(logits[:, 2:], answer[:, 2:])


def test_a_recipe_is_drafted_with_the_form(world: Path, tmp_path: Path) -> None:
    place = saved(tmp_path / "t", build_kind("heatmap", CLASSES))
    tree, pairs = draft([str(place)], [[f"{world}/train.tar"]])
    assert pairs[0].member.ending == "boxes.json"
    (task,) = tree["tasks"].values()
    assert task.value["options"].value == {"form": "boxes"}


def test_boxes_are_no_label_of_points(world: Path) -> None:
    kind = build_kind("heatmap", CLASSES, form="points")
    with pytest.raises(ShardError, match=r"boxes.json \(object 1 of the label needs `point"):
        find_label([load_index(world / "train.tar")], kind, "square", "shards")


def test_a_teacher_is_measured_on_its_boxes(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_teacher(str(world / "first" / "student"), task="square", data=[str(world / "test.tar")])
    assert "map50" in capsys.readouterr().out
