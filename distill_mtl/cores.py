"""How many cores there are for this process, and how many reader processes beside it."""

import os

import torch


def usable_cores() -> int:
    """Cores that this process may run on: a container or a scheduler may allow fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def reader_workers(wanted: int | None, device: torch.device) -> int:
    """Reader processes: as many as the recipe says, else none beside a CPU's work and up to 8 beside a GPU's."""
    if wanted is not None:
        return wanted
    if device.type != "cuda":
        return 0
    cores = usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(8, max(1, cores - 1))
