"""Inner products of the tasks' gradients, the only thing that a Gramian rule looks at.

Called by `shared.Shared` on gradients of features and by `mgda` on gradients of parameters. `over_processes` sums
what all processes found, for all nodes of a tree at once.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from distill_mtl.balance.distributed import all_sum, world_size

BLOCK, BLOCK_IN_CACHE = 2**21, 2**17
"""Numbers converted to double precision at a time, so that the extra memory stays at 16 MiB; on a CPU 1 MiB, which its
cache holds."""


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
    width = max(1, (BLOCK_IN_CACHE if device.type == "cpu" else BLOCK) // max(1, count))
    longest = max((part.numel() for row in gradients for part in row if part is not None), default=0)
    space = torch.empty(count, min(width, longest), dtype=dtype, device=device)
    for parts in zip(*gradients, strict=True):
        rows = [t for t, part in enumerate(parts) if part is not None]
        flat = _flat([part.detach() for part in parts if part is not None])
        if not flat:
            continue
        product = torch.zeros(len(rows), len(rows), dtype=dtype, device=device)
        for start in range(0, flat[0].numel(), width):
            stop = min(start + width, flat[0].numel())
            # Each row is converted into its place, always the same: new memory costs more than the conversion.
            block = space[: len(flat), : stop - start]
            for place, row in zip(block, flat, strict=True):
                place.copy_(row[start:stop])
            product.addmm_(block, block.T)
        if len(rows) == count:
            total += product
        else:
            at = torch.tensor(rows, device=device)
            total[at[:, None], at] += product
    return total


def _flat(parts: Sequence[Tensor]) -> list[Tensor]:
    """Each as a vector, in the order of the first one's memory, so that maps in channels-last are not copied."""
    if parts and parts[0].ndim > 2 and parts[0].movedim(1, -1).is_contiguous():
        parts = [part.movedim(1, -1) for part in parts]
    return [part.reshape(-1) for part in parts]


def over_processes(
    local: Sequence[Tensor], at: Sequence[Sequence[int]], tasks: Sequence[str]
) -> list[Tensor]:
    """The global Gramians of several nodes from every process's own ones, in one collective.

    Rows of other processes are further coordinates of a gradient, so the global Gramian is the sum of all
    processes' ones. It is divided by the square of their number because each process scales its losses by that
    number against the averaging of gradients.

    Args:
        local: for each node [t, t], of the tasks that are present; on one device.
        at: for each node the places of those tasks in `tasks`.
        tasks: all tasks, present or not.

    Returns:
        float64 [t, t] on the CPU for each node, equal on every process.

    Raises:
        ValueError: the processes do not agree on which tasks are present.
    """
    processes = world_size()
    if processes == 1:
        return [products.to("cpu", torch.float64) for products in local]
    # All tasks take part, present or not: whatever a process believes, the collectives match.
    packed = local[0].new_zeros(len(local), len(tasks) + 1, len(tasks))
    for node, products, places in zip(packed, local, at, strict=True):
        index = torch.tensor(places, dtype=torch.long, device=products.device)
        node[index[:, None], index] = products
        node[-1, index] = 1
    packed = all_sum(packed).to("cpu", torch.float64)
    for node in packed:
        for task, present in zip(tasks, node[-1].tolist(), strict=True):
            if present not in (0, processes):
                raise ValueError(
                    f"task '{task}' has a loss on {present:.0f} of {processes} processes; where it has no "
                    f"rows give it a zero loss that touches its head: 0 * head(shared['{task}']).sum()"
                )
    found = []
    for node, places in zip(packed, at, strict=True):
        index = torch.tensor(places, dtype=torch.long)
        found.append(node[index[:, None], index] / processes**2)
    return found
