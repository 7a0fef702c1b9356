"""Inner products of the tasks' gradients, the only thing that a Gramian rule looks at.

Called by `shared.Shared` on gradients of features and by `mgda` on gradients of parameters.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

BLOCK = 2**21
"""Numbers converted to double precision at a time, so that the extra memory stays at 16 MiB."""


def gramian(gradients: Sequence[Sequence[Tensor | None]]) -> Tensor:
    """The inner products of T gradients, each a list of tensors of the same shapes.

    Products and sums are taken in double precision (single where the device has no double), whatever
    the gradients' own precision: the squares of half-precision gradients under a loss scale overflow.

    Args:
        gradients: T rows of K tensors; None stands for zeros.

    Returns:
        [T, T], on the gradients' device.
    """
    count = len(gradients)
    given = [part for row in gradients for part in row if part is not None]
    device = given[0].device if given else torch.device("cpu")
    dtype = torch.float32 if device.type == "mps" else torch.float64
    total = torch.zeros(count, count, dtype=dtype, device=device)
    width = max(1, BLOCK // count)
    for parts in zip(*gradients, strict=True):
        rows = [t for t, part in enumerate(parts) if part is not None]
        flat = [part.detach().reshape(-1) for part in parts if part is not None]
        if not flat:
            continue
        product = torch.zeros(len(rows), len(rows), dtype=dtype, device=device)
        for start in range(0, flat[0].numel(), width):
            block = torch.stack([row[start : start + width] for row in flat]).to(dtype)
            product.addmm_(block, block.T)
        if len(rows) == count:
            total += product
        else:
            at = torch.tensor(rows, device=device)
            total[at[:, None], at] += product
    return total
