"""Teachers of one file: its trunk is loaded once and runs once for all their tasks.

`JoinedTeachers` are all of them as one network of several tasks. The evaluation puts it in the student's place, and
measures with it what a shared trunk costs.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from distill_mtl.teachers.teacher import Teacher


def share_trunks(teachers: Iterable[Teacher]) -> None:
    """Make teachers of the same files, code, path, input contract and device share one trunk.

    Two heads of a student folder, or two outputs of an ONNX file, answer for two tasks in one pass.
    """
    first: dict[tuple[object, ...], Teacher] = {}
    for teacher in teachers:
        files = tuple(teacher.card.files.values())
        card, network = teacher.card, teacher.network
        key = (type(network), files, card.code, network.path, card.inputs, teacher.fixed_device)
        owner = first.setdefault(key, teacher)
        if owner is not teacher:
            network.join(owner.network)


def by_trunk(teachers: dict[str, Teacher]) -> list[dict[str, Teacher]]:
    """The teachers of each trunk by task, in the order of the recipe."""
    groups: dict[int, dict[str, Teacher]] = {}
    for task, teacher in teachers.items():
        groups.setdefault(id(teacher.network.trunk), {})[task] = teacher
    return list(groups.values())


class JoinedTeachers(nn.Module):
    """Every trunk runs once, however many tasks read it.

    Args:
        teachers: by task, on one device.
    """

    def __init__(self, teachers: Mapping[str, Teacher]) -> None:
        super().__init__()
        # A task may have a name that a ModuleDict cannot hold.
        self.members = nn.ModuleList(teachers.values())
        self._groups = by_trunk(dict(teachers))

    @property
    def parameter_count(self) -> int | None:
        """Numbers that were learned by networks that keep them to themselves; None: not known."""
        return _sum([next(iter(group.values())).parameter_count for group in self._groups])

    @property
    def parameter_bytes(self) -> int | None:
        """Of these numbers, floats as float32; None: not known."""
        return _sum([next(iter(group.values())).parameter_bytes for group in self._groups])

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] in [0, 1] -> task -> logits, in the order of the task's classes, on the images' device."""
        answers: dict[str, Tensor] = {}
        for group in self._groups:
            first = next(iter(group.values()))
            features = first.network.run(images.to(first.fixed_device or images.device))
            answers |= {
                task: teacher.read(features).logits.to(images.device) for task, teacher in group.items()
            }
        return answers


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
