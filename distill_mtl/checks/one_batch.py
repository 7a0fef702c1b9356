"""One batch through teachers, student, losses and cut, so that a shape that does not fit shows at once."""

import torch

from distill_mtl.data.color import jitter_colors
from distill_mtl.distillation.counts import count_rows
from distill_mtl.distillation.objective import Objective
from distill_mtl.errors import UserError
from distill_mtl.teachers.live import LiveTeachers
from distill_mtl.training.build import Parts


def try_one_batch(parts: Parts, device: torch.device) -> dict[str, float]:
    """The loss of every task on the first batch of the run. Changes nothing.

    Raises:
        UserError: a loss is not a finite number.
    """
    batch = next(iter(parts.sources.stream(steps=1))).to(device)
    teachers = LiveTeachers(parts.teachers, parts.recipe.training.teachers_on).to(device)
    objective = Objective(parts.student, parts.lessons, parts.hints, parts.rule).to(device).eval()
    counts = count_rows([batch], [teachers.rows(batch)], parts.lessons)
    with torch.no_grad():
        losses, _, _ = objective(jitter_colors(batch.images, batch.color), batch, teachers(batch), counts)
    values = {task: float(loss) for task, loss in losses.items()}
    broken = [task for task, value in values.items() if not torch.isfinite(torch.tensor(value))]
    if broken:
        raise UserError(
            f"the loss of {', '.join(broken)} is not a finite number on the first batch. Look at the weights of "
            "its teacher, and at the initial weights of the student (student.init)."
        )
    return values
