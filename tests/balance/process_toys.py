"""What the tests of two real processes share: the loss of the rows that a process has, and running both."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn


def mean_losses(
    net: Any,
    seen: Callable[[str], Mapping[str, Tensor]],
    labels: Mapping[str, Tensor],
    having: Mapping[str, Sequence[int]],
    mine: range,
    world: int,
) -> dict[str, Tensor]:
    """Each task's mean over the rows of all processes that have its label; a head without any is touched at 0.

    Args:
        net: with `heads` and `loss`.
        seen: task -> the features of this process's rows.
        labels: of all rows.
        having: task -> the rows with its label.
        mine: this process's rows.
        world: processes, over which DistributedDataParallel takes a mean.
    """
    losses, touched = {}, torch.zeros(())
    for task, rows in having.items():
        local = [row for row in rows if row in mine]
        nothing = 0 * sum(p.sum() for p in net.heads[task].parameters())
        if not rows:
            touched = touched + nothing
            continue
        at = [row - mine.start for row in local]
        part = {name: feature[at] for name, feature in seen(task).items()}
        loss = net.loss(task, part, labels[task][local]) * len(local) if local else nothing
        losses[task] = loss * world / len(rows)
    first = next(iter(losses))
    losses[first] = losses[first] + touched
    return losses


def in_two_processes(folder: Path, found: Callable[[int], dict[str, Any]]) -> list[dict[str, Any]]:
    """What `found(rank)` gives on each of two processes."""
    mp.spawn(_work, (str(folder), found), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


def _work(rank: int, folder: str, found: Callable[[int], dict[str, Any]]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(found(rank), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def forget(parts: Iterable[nn.Module]) -> None:
    """No gradients, as of parts that had nothing to learn."""
    for part in parts:
        for parameter in part.parameters():
            parameter.grad = None


def same_on_both(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> None:
    """Assert that two processes chose the same weights and hold the same parameters, to the bit."""
    for one, other in zip(first, second, strict=True):
        assert one["weights"] == other["weights"]
        for key, value in one["state"].items():
            assert torch.equal(value, other["state"][key]), key
