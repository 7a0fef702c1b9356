"""A device that somebody named, tried before work begins on it."""

import torch

from distill_mtl.errors import UserError, brief


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
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"{said} {name} cannot be used here: {brief(error)}.") from error
    return device
