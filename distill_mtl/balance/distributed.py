"""Other processes, as far as balancing needs them: their number, and sums over all of them.

Every value that a rule decides on is reduced here, so that all processes choose the same weights.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes that train together; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_sum(tensor: Tensor) -> Tensor:
    """`tensor` summed over all processes, in place."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def collective_device() -> torch.device:
    """Where tensors must be for the processes to exchange them."""
    on_gpu = world_size() > 1 and dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


def from_first(tensor: Tensor) -> Tensor:
    """The first process's `tensor` on every process."""
    if world_size() == 1:
        return tensor
    moved = tensor.to(collective_device()).contiguous()
    dist.broadcast(moved, src=0)
    return moved.to(tensor.device)


def global_means(values: list[Tensor]) -> Tensor:
    """float64 [T] on the CPU: the mean over processes of each scalar, one collective and one copy."""
    stacked = torch.stack([value.detach().float().reshape(()) for value in values])
    return all_sum(stacked).to("cpu", torch.float64) / world_size()
