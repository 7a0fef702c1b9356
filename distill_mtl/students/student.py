"""The student: one trunk, one head per task. `build_student` makes it from a recipe."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from distill_mtl.errors import StudentError, UserError
from distill_mtl.networks.inputs import InputContract
from distill_mtl.recipe.schema import StudentSection
from distill_mtl.students.initial import load_initial
from distill_mtl.students.initial_heads import FirstHead, load_initial_head
from distill_mtl.students.trunk import FAMILIES, Trunk, split_family
from distill_mtl.tasks.base import TaskKind


class Student(nn.Module):
    """Images [B, 3, H, W] in [0, 1] -> logits per task.

    Training runs `trunk` and `heads` itself, to cut between them. Hint adapters are not part of it.

    Args:
        trunk: shared by all tasks.
        kinds: task -> its kind, which makes the head.

    Attributes:
        heads: task -> module from named features to logits.

    Raises:
        StudentError: a task's name cannot be used, or the trunk lacks what a head reads.
    """

    def __init__(self, trunk: Trunk, kinds: Mapping[str, TaskKind]) -> None:
        super().__init__()
        self.trunk = trunk
        self.kinds = dict(kinds)
        self.heads = nn.ModuleDict()
        for task, kind in kinds.items():
            if hasattr(self.heads, task):
                raise StudentError(f"tasks.{task}: PyTorch keeps this name for itself. Rename the task.")
            try:
                self.heads[task] = kind.head(trunk.shapes)
            except UserError as error:
                raise StudentError(f"tasks.{task}: {error}") from error
        self.tap(())

    def tap(self, layers: Sequence[str]) -> None:
        """Let the trunk give these features besides those that the heads read."""
        shapes = dict(self.trunk.shapes)
        read = [name for kind in self.kinds.values() for name in kind.needs(shapes)]
        self.trunk.tap((*read, *layers))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits of every task, as its head gives them."""
        features = self.trunk(images)
        return {task: head(features) for task, head in self.heads.items()}


def build_student(
    section: StudentSection,
    kinds: Mapping[str, TaskKind],
    hint_layers: Sequence[str | None] = (),
    *,
    seed: int,
    teacher_folders: Mapping[str, Path] | None = None,
    teacher_inputs: Mapping[str, InputContract] | None = None,
    first_heads: Mapping[str, FirstHead] | None = None,
) -> Student:
    """The student of a recipe, with its first weights. The global random state is left as it was.

    Args:
        section: what the recipe says, with the architecture.
        kinds: task -> its kind.
        hint_layers: further features that training reads; None stands for the trunk's last stage.
        seed: of the random weights.
        teacher_folders, teacher_inputs: task -> its teacher's folder and input, for `init: teacher:TASK`.
        first_heads: task -> the trained head that its own begins with; without one it is random.

    Raises:
        StudentError: the trunk cannot be built as asked, or its first weights cannot be had.
    """
    if section.model is None:
        raise StudentError(
            f"student.init: {section.init} is no student's folder, which would say its architecture. Add "
            "`model` beside it, or correct the path."
        )
    family, name = split_family(section.model)
    size = section.input_size
    size = (size, size) if isinstance(size, int) else size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            trunk = FAMILIES[family].create(name, section.args, size, pretrained=section.init == "pretrained")
            load_initial(trunk, section.init, teacher_folders or {}, teacher_inputs or {})
            student = Student(trunk, kinds)
            for task, source in (first_heads or {}).items():
                load_initial_head(student.heads[task], kinds[task], task, source)
            student.tap([layer or trunk.last for layer in hint_layers])
        except StudentError:
            raise
        except UserError as error:
            raise StudentError(f"student: {error}") from error
        _freeze_unread(student)
    return student


def _freeze_unread(student: Student) -> None:
    """Take the parameters that no feature depends on out of training.

    A final norm behind the last tapped block, for instance. They would never get a gradient, and
    DistributedDataParallel would wait for it.
    """
    read = student.trunk.parameters_behind(student.trunk.returns)
    for name, parameter in student.trunk.named_parameters():
        parameter.requires_grad_(name in read)
