"""Colours for class numbers, so that people can look at them."""

import torch
from torch import Tensor


def colors(count: int) -> Tensor:
    """uint8 [count, 3]: black for the first, then colours as PASCAL VOC's colour map has them.

    Bits of the class number, three by three, become the high bits of red, green and blue (Everingham et al.
    2010, VOC development kit).
    """
    numbers = torch.arange(count)
    table = torch.zeros(count, 3, dtype=torch.int64)
    for place in range(8):
        for channel in range(3):
            table[:, channel] |= ((numbers >> (3 * place + channel)) & 1) << (7 - place)
    return table.to(torch.uint8)


def painted(classes: Tensor, ignored: int) -> Tensor:
    """uint8 [3, H, W] of class numbers int64 [H, W]; ignored pixels are grey."""
    valid = classes != ignored
    table = colors(int(classes[valid].max()) + 1 if valid.any() else 1)
    picture = torch.full((*classes.shape, 3), 96, dtype=torch.uint8)
    picture[valid.cpu()] = table[classes[valid].cpu()]
    return picture.permute(2, 0, 1)
