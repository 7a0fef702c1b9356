"""The antialiased resize of PyTorch and PIL as two matrix products, which every runtime computes alike.

ONNX has an antialiased Resize, but OpenVINO and TensorRT leave its antialiasing out, and other formats have none.
A product of matrices is the same everywhere.
"""

from typing import Literal

import torch
from torch import Tensor

Kernel = Literal["bilinear", "bicubic"]
_SHARPNESS = -0.5
"""`a` of the cubic kernel (Keys 1981, equation 4), as PIL and PyTorch's antialiased resize have it."""


def resized_by_products(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Images [..., h, w] as [..., H, W], as `interpolate(images, (H, W), mode=kernel, antialias=True)` resizes them.

    Args:
        images: floating point.
        rows: [H, h], `resize_weights` of the height.
        columns: [W, w], those of the width.
    """
    return rows @ (images @ columns.transpose(0, 1))


def resize_weights(length: int, size: int, kernel: Kernel, *, like: Tensor) -> Tensor:
    """[size, length]: what each pixel of a side of `length` pixels adds to each pixel of the resized side.

    A row is the kernel around the pixel's centre, stretched by the factor by which the side shrinks, and divided by its
    sum, so that what lies beyond the border counts nothing. Where the length is open in a graph that is recorded, the
    graph computes them.

    Args:
        length: pixels of the side.
        size: pixels of the side after the resize.
        kernel: bilinear or bicubic.
        like: gives type and device.
    """
    pixels = torch.arange(length, dtype=like.dtype, device=like.device)
    step = (pixels[-1:] + 1) / size  # the length as a tensor: it may be known only when the graph runs
    centres = step * (torch.arange(size, dtype=like.dtype, device=like.device) + 0.5)
    apart = (pixels + 0.5 - centres[:, None]) / step.clamp(min=1)
    weights = _bilinear(apart.abs()) if kernel == "bilinear" else _bicubic(apart.abs())
    return weights / weights.sum(1, keepdim=True)


def _bilinear(apart: Tensor) -> Tensor:
    return (1 - apart).clamp(min=0)


def _bicubic(apart: Tensor) -> Tensor:
    near = ((_SHARPNESS + 2) * apart - (_SHARPNESS + 3)) * apart * apart + 1
    far = (((apart - 5) * apart + 8) * apart - 4) * _SHARPNESS
    # The far part is 0 at a distance of 2; beyond it there is nothing.
    return torch.where(apart < 1, near, torch.where(apart < 2, far, torch.zeros_like(apart)))
