"""Freezing a network, in one place, so that nothing a training loop does can move it."""

from torch import nn


def freeze(module: nn.Module) -> None:
    """Evaluation mode and no gradients, for the module and everything in it."""
    module.eval()
    module.requires_grad_(False)
