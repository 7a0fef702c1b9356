"""The modes in which a network runs: evaluated for a moment, frozen for good, recorded as a graph, on a device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from distill_mtl.errors import UserError, brief


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for the block, so that no running statistics move."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def freeze(module: nn.Module) -> None:
    """Evaluation mode and no gradients, for the module and everything in it."""
    module.eval()
    module.requires_grad_(False)


def recorded() -> bool:
    """True while torch.export or torch.jit.trace records: a shortcut for one size would be all that the graph knows."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing()


def usable_device(name: str, said: str) -> torch.device:
    """The device of this name.

    Args:
        name: cpu, cuda, cuda:1, mps.
        said: what named it, for the message: `--device`.

    Raises:
        UserError: there is no such device here.
    """
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise NotImplementedError("its tensors hold no numbers")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"{said} {name} cannot be used here: {brief(error)}.") from error
    return device
