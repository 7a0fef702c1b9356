"""A trained network of several tasks that pictures of any size can be shown to."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from distill_mtl.errors import UserError, nearest
from distill_mtl.students.student import Student
from distill_mtl.tasks.base import TaskKind

Resize = Literal["crop", "pad", "squash"]


class Network(ABC):
    """What `predictions` asks of a network.

    Attributes:
        kinds: task -> its kind.
        resize: what part of a picture evaluation showed it: its largest centred part of the network's shape, all of it
            with black beside it, or all of it stretched.
        device: where it works.
    """

    kinds: Mapping[str, TaskKind]
    resize: Resize
    device: torch.device
    shape: tuple[int, int]

    @abstractmethod
    def logits(self, images: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        """Task -> the logits of each image, [C] or [C, h, w], on `device`.

        Args:
            images: uint8 [3, H, W], of any sizes.
        """


class StudentNetwork(Network):
    """A student: every image is preprocessed alone, as `load_student(...)(images)` does it, and all run together.

    Args:
        student: in evaluation mode.
        tasks: whose heads run.
        resize: of evaluation.
        device: to work on.
    """

    def __init__(self, student: Student, tasks: Sequence[str], resize: Resize, device: torch.device) -> None:
        self._student, self.device, self.resize = student.to(device), device, resize
        self.kinds = {task: student.kinds[task] for task in tasks}
        self.shape = student.trunk.inputs.size

    def logits(self, images: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        trunk = self._student.trunk
        pixels = [trunk.preprocess(image.to(self.device)[None].float() / 255) for image in images]
        features = trunk.read(torch.cat(pixels))
        return {task: list(self._student.heads[task](features).unbind()) for task in self.kinds}


def chosen_tasks(known: Sequence[str], only: Sequence[str] | None, what: str) -> list[str]:
    """The tasks that were asked for, in the network's order; None: all.

    Raises:
        UserError: it has no such task.
    """
    for task in only or ():
        if task not in known:
            raise UserError(f"{what} has no task '{task}'.{nearest(task, known)} Tasks: {', '.join(known)}.")
    return [task for task in known if only is None or task in only]
