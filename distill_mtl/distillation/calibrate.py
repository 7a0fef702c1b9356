"""Freeze the statistics of every hint's target before the first step, from rows of the run's own stream."""

from collections.abc import Iterable, Mapping, Sequence

import torch

from distill_mtl.data.batch import Batch
from distill_mtl.distillation.hints import Hint
from distill_mtl.distillation.lesson import Lesson
from distill_mtl.teachers.live import LiveTeachers


@torch.no_grad()
def calibrate_hints(
    batches: Iterable[Batch],
    teachers: LiveTeachers,
    lessons: Mapping[str, Lesson],
    hints: Mapping[str, Sequence[Hint]],
) -> None:
    """Show each teacher the given batches and let its hints take mean and scale from what it says.

    Args:
        batches: rows of the training stream on the teachers' device; the same on every process, so that
            all of them freeze the same numbers.
        teachers: they are asked about every row here, whatever they are asked in training.
        lessons: names the layers.
        hints: task -> its hints, in the order of the lesson's pairs.
    """
    seen: dict[str, list[dict[str, torch.Tensor]]] = {task: [] for task in teachers.teachers}
    for batch in batches:
        for task, teacher in teachers.teachers.items():
            seen[task].append(teacher(batch.images).hidden)
    for task, hidden in seen.items():
        for pair, hint in zip(lessons[task].hints, hints.get(task, ()), strict=True):
            hint.calibrate([features[pair.teacher] for features in hidden])
