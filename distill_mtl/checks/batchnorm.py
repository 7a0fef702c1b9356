"""Where a run's batches are not what BatchNorm will meet in evaluation, or in another run of the recipe."""

import torch
from torch import nn

from distill_mtl.data import Sources

_WITHOUT = "a student without it, such as --set student.args.norm_layer=groupnorm1"


def batchnorm_warnings(
    student: nn.Module, sources: Sources, device: torch.device, processes: int
) -> list[str]:
    """What to tell the user of a student with BatchNorm, a few sentences each; nothing about any other.

    Args:
        student: that is to be trained.
        sources: what it is trained on.
        device: where.
        processes: how many train it together.
    """
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in student.modules()):
        return []
    warnings = []
    if processes > 1 and device.type == "cpu":
        warnings.append(
            "the student has BatchNorm, whose statistics are local to a process on the CPU: this run is not the same "
            f"as one of a single process. For an exact one choose {_WITHOUT}."
        )
    if sources.phase_length is not None and len(sources.names) > 1:
        warnings.append(
            "training.stream is alternate, and the student has BatchNorm: in training it normalises each batch by the "
            "statistics of one data set, in evaluation all rows by a running average over several of them, so it "
            f"may score worse than it trained. Choose {_WITHOUT}, or --set training.stream=mixed."
        )
    return warnings
