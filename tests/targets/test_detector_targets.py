"""A detector in a file teaches a student: live, cached, in two processes, behind a gate, from check to predict."""

import json
from io import StringIO
from pathlib import Path

import detector_toys
import forked
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torchvision.io import write_png

from distill_mtl import distill, load_recipe
from distill_mtl.jobs.cache import verify_cache, write_cache
from distill_mtl.jobs.check import check
from distill_mtl.jobs.predict import predict
from distill_mtl.networks.boxes import boxes_apart, from_answer
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.targets.combined import Gate
from distill_mtl.teachers.load_teacher import load_teacher
from distill_mtl.training.parts import build

pytestmark = pytest.mark.usefixtures("short_runs")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, a detector in an ONNX file of YOLO's form, and a recipe in which labels count nothing."""
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("detector")
    for name, rows, seed in (("train", 192, 0), ("validation", 24, 1), ("test", 48, 2)):
        detector_toys.write(folder / f"{name}.tar", rows, seed)
    notes = {"names": "{0: 'warm', 1: 'cold'}", "imgsz": "[32, 32]", "task": "detect"}
    detector_toys.save_onnx(detector_toys.make("yolo"), folder / "finder.onnx", notes)
    (folder / "recipe.yaml").write_text(
        f"""
student: {{model: "toy:net", args: {{width: 12}}, init: random, input_size: 32}}
tasks:
  square:
    kind: heatmap
    classes: [warm, cold]
    options: {{max_objects: 6, top: 8}}
    teacher: {folder}/finder.onnx
    weights: {{supervised: 0}}
    hints: []
    data:
      shards: {folder}/train.tar
      split: {{validation: {folder}/validation.tar, test: {folder}/test.tar}}
      augment: {{flip: false, crop: null, color: 0}}
training: {{steps: 4, batch_size: 32, precision: fp32, teachers_on: all, log_every: 100, checkpoint_every: 1000}}
optimizer: {{lr: 0.01}}
evaluation: {{bootstrap: 100}}
acceptance: 100
"""
    )
    return folder


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "student" / "model.safetensors")


def test_a_student_learns_from_a_detector_alone(world: Path, tmp_path: Path) -> None:
    recipe = load_recipe(world / "recipe.yaml", ["training.steps=120"])
    console = Console(file=StringIO(), width=200)
    check(world / "recipe.yaml", console=console)
    distill(recipe, out=tmp_path / "run")
    result = json.loads((tmp_path / "run" / "results.json").read_text())["tasks"]["square"]
    assert result["teacher"] == pytest.approx(100)
    assert result["student"] > 50
    rows = tmp_path / "answers.jsonl"
    picture = tmp_path / "picture.png"
    images, objects = detector_toys.pictures(1, seed=9)
    write_png((images[0] * 255).round().to(torch.uint8), str(picture))
    predict(str(world / "finder.onnx"), [str(picture)], json=rows, console=console)
    (answer,) = [json.loads(line) for line in rows.read_text().splitlines()]
    found = next(iter(answer["tasks"].values()))["objects"]
    assert sorted(thing["box"] for thing in found) == [
        pytest.approx(thing["box"], abs=0.01) for thing in sorted(objects[0], key=lambda thing: thing["box"])
    ]


def test_cached_boxes_are_the_live_ones(world: Path) -> None:
    overrides = ["targets.from=cached"]
    write_cache(world / "recipe.yaml", overrides)
    parts = build(load_recipe(world / "recipe.yaml", overrides))
    assert parts.cached is not None
    batch = next(iter(parts.sources.stream(steps=1)))
    kept = parts.cached.ask("square", batch).logits
    section = TeacherSection(path=str(world / "finder.onnx"))
    said = load_teacher(section, task="square")(batch.images / 255).logits
    assert kept.shape == said.shape
    assert boxes_apart(kept, said).max() < 1e-5
    assert torch.equal(from_answer(kept)[0], from_answer(said)[0])
    verify_cache(world / "recipe.yaml", overrides)


def test_two_processes_learn_the_same_as_one(world: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    distill(load_recipe(world / "recipe.yaml"), out=one, console=Console(quiet=True))
    for ended in forked.run_two("distill", world / "recipe.yaml", "--out", two):
        assert ended.status == 0, ended.text
    ours, theirs = weights(one), weights(two)
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], atol=2e-3, rtol=2e-3, msg=name)


def test_a_gate_asks_for_the_strongest_box(world: Path) -> None:
    section = TeacherSection(path=str(world / "finder.onnx"))
    images, _ = detector_toys.pictures(3)
    images[1] = 0
    answer = load_teacher(section, task="square")(images).logits
    assert Gate("confidence", 0.8).masked(answer).tolist() == [False, True, False]
    assert Gate("confidence", 0.95).masked(answer).tolist() == [True, True, True]
    assert Gate("entropy", 0.6).masked(answer).tolist() == [False, False, False]
