"""Students of every kind of task, a run folder around them without a run, and files run as their users run them."""

import json
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import toys
from torch import Tensor

from distill_mtl.recipe import dump_recipe, load_recipe
from distill_mtl.students.student import FAMILIES, Student
from distill_mtl.students.student_folder import save_student
from distill_mtl.tasks.base import TaskKind, build_kind

ALONE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "distill_mtl":
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
try:
    import distill_mtl
except ImportError:
    pass
else:
    raise SystemExit("distill_mtl can be imported, so this shows nothing")
"""
"""The beginning of a script in whose process nothing of ours can be imported."""


def every_kind() -> dict[str, TaskKind]:
    named = ("cat", "dog", "bird")
    return {
        "breed": build_kind("classification", named, head={"depth": 2}),
        "tags": build_kind("multilabel", named),
        "age": build_kind("regression", ("age", "weight"), scale=[10, 2], offset=[40, 5]),
        "part": build_kind("segmentation", named),
        "depth": build_kind("depth", (), typical=3.0),
        "normals": build_kind("normals"),
        "things": build_kind("heatmap", named, top=5),
        "joints": build_kind("heatmap", named, form="points"),
    }


def student(model: str = "toy:net", kinds: Mapping[str, TaskKind] | None = None, *, seed: int = 0) -> Student:
    """With random weights, and logits as large as those of a trained network."""
    family, _, name = model.rpartition(":")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        size = (8, 8) if family == "toy" else (32, 32)
        trunk = FAMILIES[family or "timm"].create(name, {}, size, pretrained=False)
        made = Student(trunk, kinds or every_kind())
        for head in made.heads.values():
            for parameter in head.parameters():
                parameter.data += 0.3 * torch.randn_like(parameter)
    return made.eval()


OWN_KIND = """
import torch
from distill_mtl.tasks.classification import Classification


class FirstStage(Classification):
    member = "cls"

    def needs(self, features):
        return (next(name for name, shape in features.items() if shape.pyramid),)

    def head(self, features):
        (name,) = self.needs(features)
        return MeanHead(name, features[name].channels, len(self.classes))


class MeanHead(torch.nn.Module):
    def __init__(self, layer, channels, outputs):
        super().__init__()
        self.layer, self.linear = layer, torch.nn.Linear(channels, outputs)

    def forward(self, features):
        return self.linear(features[self.layer].mean((2, 3)))
"""
"""A kind of a user's own that reads the trunk's first stage alone."""


def run_folder(folder: Path, made: Student, world: Path) -> Path:
    """`folder` as a finished run of the toy world's recipe leaves it, as far as an export looks.

    Args:
        world: where `toy_world.build` wrote.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.resolved.yaml").write_text(dump_recipe(load_recipe(world / "toy.yaml")))
    save_student(made, folder / "student")
    return folder


def toy_student(model: str = "toy:net") -> Student:
    """For the two tasks of the toy world."""
    return student(model, {"hue": toys.classification(3), "shape": toys.segmentation(2)})


def toy_run(folder: Path, world: Path, model: str = "toy:net") -> Path:
    """A run with the two tasks of the toy world."""
    return run_folder(folder, toy_student(model), world)


def run_file(path: Path, images: Tensor) -> dict[str, Tensor]:
    """The file's answers from its own runtime, without our code."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        answers = session.run(None, {"images": images.numpy()})
        return {
            output.name: torch.from_numpy(answer)
            for output, answer in zip(session.get_outputs(), answers, strict=True)
        }
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        network: Any = (
            torch.export.load(path).module() if path.suffix == ".pt2" else torch.jit.load(path).eval()
        )
        return dict(network(images))


def note_of(path: Path) -> dict[str, Any]:
    """The file's note, as a reader without our code finds it."""
    if path.suffix == ".onnx":
        import onnx

        return json.loads({p.key: p.value for p in onnx.load(path).metadata_props}["distill_mtl"])
    files = {"distill_mtl": ""}
    if path.suffix == ".pt2":
        torch.export.load(path, extra_files=files)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.load(path, _extra_files=files)
    return json.loads(files["distill_mtl"])


def without_us(script: str, folder: Path, *arguments: object) -> str:
    """Run a script in a process where distill_mtl cannot be imported; what it printed."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE + script, *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
