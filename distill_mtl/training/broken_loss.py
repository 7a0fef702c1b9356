"""A loss or weights that are not finite: in which step it began, and what in that step's rows is the cause.

The training loop notes each step's loss on the device and asks for the cause when it meets broken numbers; the check
asks about the first batch. Rows are a pure function of the step, so those of an earlier step are read again.
"""

from collections.abc import Iterator, Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from distill_mtl.data.batch import Batch
from distill_mtl.errors import a_few
from distill_mtl.networks.modes import evaluating
from distill_mtl.recipe.schema import task_of
from distill_mtl.students.student import Student
from distill_mtl.teachers.teacher import Targets, TeacherOutput
from distill_mtl.training.step import StepReport

_ROWS_NAMED = 3
_NONE = -1


class LossWatch:
    """Notes the first step whose loss is not finite, without waiting for the device.

    Args:
        accelerator: of the run.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self.reset()

    def reset(self) -> None:
        """Forget what was noted: the loss is finite again, as after an overflow that fp16's scaler skipped."""
        self._first = torch.tensor(_NONE, device=self._accelerator.device)

    def note(self, step: int, report: StepReport) -> None:
        """Look at the losses of step `step`, counted from 0."""
        values = [value.float() for named in report.terms.values() for value in named.values()]
        if values:
            broken = ~torch.stack(values).sum().isfinite() & (self._first == _NONE)
            self._first = torch.where(broken, step, self._first)

    def first(self) -> int | None:
        """The first broken step of any process, counted from 0; None where every loss was finite."""
        found = [step for step in gather_everywhere([self._first.item()]) if step != _NONE]
        return int(min(found)) if found else None


def broken_tensors(module: nn.Module) -> list[str]:
    """Names of the parameters and running statistics of a module that hold a number which is not finite."""
    # Another buffer may hold infinity on purpose.
    statistics = (
        pair for pair in module.named_buffers() if pair[0].endswith(("running_mean", "running_var"))
    )
    tensors = {
        name: tensor.detach()
        for name, tensor in (*module.named_parameters(), *statistics)
        if tensor.is_floating_point()
    }
    if not tensors:
        return []
    sound = torch.stack([tensor.isfinite().all() for tensor in tensors.values()])
    return [name for name, good in zip(tensors, sound.tolist(), strict=True) if not good]


def causes(student: Student, batch: Batch, targets: Targets) -> list[str]:
    """What in the rows of a batch makes a loss that is not finite, whatever the student answers.

    Args:
        student: whose kinds the labels are of, in any state.
        batch: on the student's device.
        targets: the teachers' answers about it.

    Returns:
        A clause for each task and kind of cause, with the keys of its rows; none where labels and answers are sound.
    """
    return [
        f"{what} ({a_few([batch.keys[row] for row in rows], _ROWS_NAMED)})"
        for task in batch.labels
        for what, rows in (*_broken_answers(task, targets), *_broken_labels(student, task, batch))
        if rows
    ]


def gather_everywhere(mine: Sequence[object]) -> list:
    """The entries of all processes, on every process."""
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        return list(gather_object(list(mine)))
    return list(mine)


def _broken_answers(task: str, targets: Targets) -> Iterator[tuple[str, list[int]]]:
    for name, target in targets.items():
        if task_of(name) == task:
            rows = target.rows.cpu()[~_sound(target.output)].tolist()
            yield f"the teacher of {name} gives answers that are not finite", rows


def _sound(output: TeacherOutput) -> Tensor:
    """bool [R], on the host. Minus infinity is a sound logit: of a class that the teacher does not know."""
    logits = output.logits.flatten(1)
    sound = ~(logits.isnan() | logits.isposinf()).any(1)
    for feature in output.hidden.values():
        sound &= feature.flatten(1).isfinite().all(1)
    return sound.cpu()


@torch.no_grad()
def _broken_labels(student: Student, task: str, batch: Batch) -> Iterator[tuple[str, list[int]]]:
    """Asks the kind for the loss of an answer that is finite: only it knows what a label may hold."""
    labelled = batch.labelled[task].nonzero().flatten()
    if not len(labelled):
        return
    rows = labelled.to(batch.images.device)
    with evaluating(student):
        shape = student(batch.images)[task][rows].shape
    generator = torch.Generator().manual_seed(0)
    answers = torch.randn(shape, generator=generator).to(batch.images.device)
    loss = student.kinds[task].supervised_loss(answers, batch.labels[task][rows])
    yield f"the label of {task} gives a loss that is not finite", rows[~loss.isfinite()].tolist()
