"""Networks of a few lines, for tests of what surrounds a network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill_mtl.networks.inputs import InputContract
from distill_mtl.students.student import FAMILIES, Student, Trunk
from distill_mtl.students.student_folder import save_student
from distill_mtl.tasks.base import TaskKind, build_kind

SIZE = 8


class ToyNet(nn.Module):
    """Two stages by timm's conventions, without BatchNorm unless asked: equal however a batch is split.

    Args:
        width: channels of the first stage.
        norm: BatchNorm after each stage, or with "group" GroupNorm.
    """

    def __init__(self, width: int = 6, norm: bool | str = False) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, width, 3, stride=2, padding=1), nn.GELU())
        self.second = nn.Sequential(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.GELU())
        if norm:
            for stage, channels in ((self.first, width), (self.second, 2 * width)):
                stage.append(nn.GroupNorm(1, channels) if norm == "group" else nn.BatchNorm2d(channels))
        self.feature_info = [
            {"module": "first", "num_chs": width, "reduction": 2},
            {"module": "second", "num_chs": 2 * width, "reduction": 4},
        ]

    def forward_features(self, images: Tensor) -> Tensor:
        return self.second(self.first(images))

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        return features.mean((2, 3))


@FAMILIES.register("toy")
class ToyTrunk(Trunk):
    """`student: {model: "toy:net", args: {width: 6}}`."""

    family = "toy"

    @classmethod
    def create(
        cls, name: str, args: Mapping[str, Any], size: tuple[int, int] | None, *, pretrained: bool
    ) -> "ToyTrunk":
        return cls(
            cls.build(name, args), InputContract(size or (SIZE, SIZE), (0.5,) * 3, (0.5,) * 3), name, args
        )

    @classmethod
    def build(cls, name: str, args: Mapping[str, Any]) -> nn.Module:
        return ToyNet(**args)


def toy_student(
    kinds: Mapping[str, TaskKind], width: int = 6, seed: int = 0, *, norm: bool = False
) -> Student:
    """A student with random weights whose trunk also gives its last stage, for hints."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        args = {"width": width, **({"norm": True} if norm else {})}
        student = Student(ToyTrunk.create("net", args, None, pretrained=False), kinds)
    student.tap(["second"])
    return student


def classes(number: int) -> tuple[str, ...]:
    return tuple(f"class{index}" for index in range(number))


def classification(number: int = 3) -> TaskKind:
    return build_kind("classification", classes(number))


def segmentation(number: int = 2) -> TaskKind:
    return build_kind("segmentation", classes(number))


def toy_teacher_folder(folder: Path, task: str, kind: TaskKind, *, width: int = 5, seed: int = 1) -> Path:
    """A saved network with random weights that can teach one task."""
    student = toy_student({task: kind}, width, seed)
    # Logits as large as those of a trained network, so that soft targets say something.
    for head in student.heads.values():
        for parameter in head.parameters():
            parameter.data *= 5
    save_student(student, folder)
    return folder
