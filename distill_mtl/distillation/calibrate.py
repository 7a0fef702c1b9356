"""Freeze the statistics of every hint's target before the first step, from rows that the run trains on."""

from collections.abc import Iterable, Mapping, Sequence

import torch

from distill_mtl.data.batch import Batch
from distill_mtl.distillation.hints import Hint
from distill_mtl.distillation.loss_config import LossConfig
from distill_mtl.targets.provider import TargetProvider


@torch.no_grad()
def calibrate_hints(
    batches: Iterable[Batch],
    teachers: TargetProvider,
    loss_configs: Mapping[str, LossConfig],
    hints: Mapping[str, Sequence[Hint]],
) -> None:
    """Show each teacher the given batches and let its hints take mean and scale from what it says.

    Args:
        batches: training rows of every source on the teachers' device, each small enough for it; the same on
            every process, so that all of them freeze the same numbers.
        teachers: those with hints are asked about every row here, whatever they are asked in training.
        loss_configs: names the layers.
        hints: task -> its hints, in the order of its pairs of layers.
    """
    asked = [task for task in teachers.tasks if hints.get(task)]
    seen: dict[str, list[dict[str, torch.Tensor]]] = {task: [] for task in asked}
    for batch in batches if asked else ():
        for task in asked:
            hidden = teachers.ask(task, batch).hidden
            seen[task].append({layer: feature.cpu() for layer, feature in hidden.items()})
    for task, hidden_by_batch in seen.items():
        for pair, hint in zip(loss_configs[task].hints, hints[task], strict=True):
            hint.calibrate([features[pair.teacher] for features in hidden_by_batch])
