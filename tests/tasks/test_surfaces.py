"""Depth and surface normals from teachers to a merged student, in every form that teachers have."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import toys
from rich.console import Console
from safetensors.torch import load_file
from surface_toys import SIDE, shards
from torch import Tensor, nn
from torch.export import Dim

from distill_mtl import distill, load_recipe, load_student
from distill_mtl.errors import TeacherError
from distill_mtl.jobs.cache import write_cache
from distill_mtl.jobs.one_teacher import train_teacher
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.tasks.base import build_kind
from distill_mtl.teachers.load_teacher import load_teacher

pytestmark = pytest.mark.usefixtures("short_runs")
QUIET = Console(quiet=True)
RECIPE = """
student: {model: "toy:net", init: random}
tasks:
  far:
    kind: depth
    teacher: {path: FOLDER/teachers/far, expect: 1000, precision: fp32}
    options: {typical: 1.5, loss: silog}
    data:
      shards: FOLDER/depth/train.tar
      split: {validation: FOLDER/depth/validation.tar, test: FOLDER/depth/test.tar}
  facing:
    kind: normals
    metric: median_angle
    teacher: {path: FOLDER/teachers/facing, expect: 180, precision: fp32}
    data:
      shards: FOLDER/normals/train.tar
      split: {validation: FOLDER/normals/validation.tar, test: FOLDER/normals/test.tar}
training: {steps: 6, batch_size: 12, log_every: 2, checkpoint_every: 3}
evaluation: {bootstrap: 100}
acceptance: 1000
"""


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Two data sets, a teacher for each, and the recipe that merges them."""
    shards(tmp_path / "depth", "depth.png")
    shards(tmp_path / "normals", "normals.npy")
    for seed, (task, kind) in enumerate((("far", "depth"), ("facing", "normals"))):
        toys.toy_teacher_folder(tmp_path / "teachers" / task, task, build_kind(kind), seed=seed)
    recipe = tmp_path / "scenes.yaml"
    recipe.write_text(RECIPE.replace("FOLDER", str(tmp_path)))
    return recipe


def test_a_student_learns_depth_and_normals_from_two_teachers(world: Path) -> None:
    evaluation = distill(load_recipe(world), out=world.parent / "run", console=QUIET)
    far, facing = evaluation.tasks["far"], evaluation.tasks["facing"]
    assert (far.kind, far.metric, far.higher_is_better) == ("depth", "abs_rel", False)
    assert (facing.kind, facing.metric, facing.higher_is_better) == ("normals", "median_angle", False)
    assert 0 < far.student < 100  # of depths from 1 to 2, about which its head begins
    assert 0 < facing.student < 180
    student = load_student(world.parent / "run" / "student")
    answers = student.student(torch.rand(2, 3, SIDE, SIDE))
    decoded = {task: kind.decode(answers[task], (9, 11)) for task, kind in student.student.kinds.items()}
    assert decoded["far"]["depth"].shape == (2, 9, 11)
    torch.testing.assert_close(decoded["facing"]["normals"].norm(dim=1), torch.ones(2, 9, 11))


def test_a_cache_keeps_measurements_in_16_bits_whatever_logits_are_kept_in(world: Path) -> None:
    overrides = ["targets={from: cached, logits: int8}"]
    write_cache(world, overrides)
    sidecars = sorted(world.parent.glob("*/*.safetensors"))
    assert len(sidecars) == 2 * 2  # a teacher for each data set, and each sees the other's pictures too
    assert {load_file(path)["logits"].dtype for path in sidecars} == {torch.float16}
    distill(load_recipe(world, overrides), out=world.parent / "run", console=QUIET)


@pytest.mark.parametrize(("kind", "name"), [("depth", "depth"), ("normals", "normals")])
def test_a_trained_teacher_is_a_student_folder_that_teaches(world: Path, kind: str, name: str) -> None:
    text = f"""
student: {{model: "toy:net", init: random}}
tasks: {{map: {{kind: {kind}}}}}
data:
  scenes:
    shards: {world.parent}/{name}/train.tar
    split: {{validation: {world.parent}/{name}/validation.tar, test: {world.parent}/{name}/test.tar}}
    labels: {{map: {{}}}}
training: {{steps: 2, batch_size: 12}}
evaluation: {{bootstrap: 100}}
"""
    recipe = world.parent / "alone.yaml"
    recipe.write_text(text)
    folder = train_teacher(recipe, out=world.parent / "alone")
    teacher = load_teacher(TeacherSection(path=str(folder)), task="map")
    assert teacher.card.kind == kind
    assert teacher(torch.rand(2, 3, SIDE, SIDE)).logits.shape[1] == {"depth": 1, "normals": 3}[kind]


class Deployed(nn.Module):
    """Another library's network: metres [B, h, w] or [B, 1, h, w], or normals, at half the size."""

    def __init__(self, answer: str) -> None:
        super().__init__()
        self.answer = answer
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.head = nn.Conv2d(6, 3 if answer == "normals" else 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        answer = self.head(self.conv(images).relu())
        return (
            answer
            if self.answer == "normals"
            else answer.exp()
            if self.answer == "map"
            else answer.exp()[:, 0]
        )


def save_onnx(network: nn.Module, path: Path) -> Path:
    pytest.importorskip("onnxruntime")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.rand(2, 3, 16, 16),),
            path,
            dynamo=True,
            verbose=False,
            dynamic_shapes=({0: "batch"},),
        )
    return path


def save_exported(network: nn.Module, path: Path) -> Path:
    exported = torch.export.export(network, (torch.rand(2, 3, 16, 16),), dynamic_shapes=({0: Dim.DYNAMIC},))
    torch.export.save(exported, path)
    return path


@pytest.mark.parametrize("answer", ["plane", "map", "normals"])
@pytest.mark.parametrize(("save", "file"), [(save_onnx, "net.onnx"), (save_exported, "net.pt2")])
def test_deployed_networks_teach(
    tmp_path: Path, save: Callable[[nn.Module, Path], Path], file: str, answer: str
) -> None:
    torch.manual_seed(0)
    network = Deployed(answer).eval()
    name = "normals" if answer == "normals" else "depth"
    section = TeacherSection.model_validate(
        {
            "path": str(save(network, tmp_path / file)),
            "trust": True,
            "input": {"mean": [0, 0, 0], "std": [1, 1, 1]},
        }
    )
    teacher, images = load_teacher(section, task="map", kind=name), torch.rand(3, 3, 16, 16)
    logits = teacher(images).logits
    with torch.no_grad():
        torch.testing.assert_close(logits, network(images).view(logits.shape), atol=1e-4, rtol=1e-4)
    assert logits.shape == (3, 3 if answer == "normals" else 1, 8, 8)
    kind = build_kind(name)
    head = torch.rand(3, logits.shape[1], 4, 4, requires_grad=True)
    loss = kind.soft_target_loss(head, logits, 1.0).sum()
    loss.backward()
    assert loss > 0


def test_a_network_of_another_width_is_no_depth(tmp_path: Path) -> None:
    path = save_exported(Deployed("normals").eval(), tmp_path / "net.pt2")
    with pytest.raises(TeacherError, match="3 outputs.*kind depth"):
        load_teacher(TeacherSection(path=str(path), trust=True), task="map", kind="depth")


class Tokens(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(2)


def test_three_dimensions_that_are_no_map_of_the_picture_are_refused_as_before(tmp_path: Path) -> None:
    path = save_exported(Tokens().eval(), tmp_path / "net.pt2")
    with pytest.raises(TeacherError, match="has the shape .* which is neither"):
        load_teacher(TeacherSection(path=str(path), trust=True), task="map", kind="depth")
