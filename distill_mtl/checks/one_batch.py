"""One batch through teachers, student, losses and cut, so that a shape that does not fit shows at once."""

import copy
import math

import torch

from distill_mtl.data.color import jitter_colors
from distill_mtl.distillation.counts import count_rows
from distill_mtl.distillation.objective import Objective
from distill_mtl.errors import UserError
from distill_mtl.training.parts import Parts


def try_one_batch(parts: Parts, device: torch.device, slices: int) -> None:
    """Teachers, losses, balancing and both backward passes on a few rows of every source, in every stage.

    Changes nothing. All processes of a run try the same rows: balancing talks between them.

    Args:
        parts: of the run.
        device: where it will train.
        slices: how many slices a step is cut into; one of them is tried, as much as a device will hold.

    Raises:
        UserError: a loss is not a finite number.
    """
    batch = next(iter(parts.sources.preview(micro_batches=slices, steps=1))).to(device)
    teachers = parts.targets().to(device)
    original = Objective(parts.student, parts.lessons, parts.hints, parts.rule)
    voices = parts.voices(teachers, parts.student)
    for stage in parts.schedule.stages:
        objective = copy.deepcopy(original).to(device)
        objective.begin(stage)
        objective.eval()
        rows = voices.rows(batch, stage.lessons)
        counts = count_rows([batch], [rows], stage.lessons)
        images = jitter_colors(batch.images, batch.color)
        losses, shared, _ = objective(images, batch, voices(batch, rows), counts)
        if losses:
            objective.rule.backward(losses, shared)
        values = {task: loss.item() for task, loss in losses.items()}
        broken = [task for task, value in values.items() if not math.isfinite(value)]
        if broken:
            raise UserError(
                f"the loss of {', '.join(broken)} is not a finite number on the first batch. Look at the weights of "
                "its teacher, and at the initial weights of the student (student.init)."
            )
