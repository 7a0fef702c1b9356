"""Small students for the tests of this folder."""

from typing import Any

import torch

from distill_mtl.recipe.schema import StudentSection
from distill_mtl.students.initial_weights import build_student
from distill_mtl.students.student import Student
from distill_mtl.tasks.base import TaskKind, build_kind


def kinds() -> dict[str, TaskKind]:
    return {
        "left": build_kind("classification", ["a", "b", "c"]),
        "part": build_kind("segmentation", ["ground", "thing"]),
    }


def student(
    model: str = "test_resnet", seed: int = 0, tasks: dict[str, TaskKind] | None = None, **keys: Any
) -> Student:
    """A randomly begun student of `kinds()`, 64 px unless said otherwise, in evaluation mode."""
    options = {"input_size": 64, "init": "random", **keys}
    return build_student(StudentSection(model=model, **options), tasks or kinds(), seed=seed).eval()


def three_kinds() -> dict[str, TaskKind]:
    return {
        "a": build_kind("classification", ["x", "y", "z"]),
        "b": build_kind("segmentation", ["ground", "thing"]),
        "c": build_kind("classification", ["x", "y"]),
    }


def apart(found: Student) -> Student:
    """The same with weights that differ from part to part."""
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=noise))
    return found
