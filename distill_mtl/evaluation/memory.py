"""Peak memory of a network's forward pass, weights included; and the name of the machine.

On CUDA it is what torch's allocator counts. On Linux' CPUs it is resident memory, which sees every library: what
is free is given back to the system first, and the kernel's high-water mark is reset before the pass, so that
nothing that ran earlier is counted. It is unknown elsewhere.
"""

import copy
import ctypes
import platform
from pathlib import Path

import torch
from torch import Tensor, nn

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_HIGH_WATER = "5"  # proc(5): reset the peak resident set size


def peak_memory(network: nn.Module, images: Tensor) -> int | None:
    """Bytes of the weights as they lie in memory, and the most that a warm pass of `images` takes beside them.

    A network of another runtime keeps weights and working memory to itself. A fresh copy of it is loaded, so that
    all that it takes shows as growth of this process; on an accelerator that is not seen.

    Args:
        network: in evaluation mode, on the device of the images.
        images: the batch; it is not counted.

    Returns:
        None where it cannot be had.
    """
    kind = images.device.type
    if hasattr(network, "parameter_count") and not any(True for _ in network.parameters()):
        return _of_a_copy(network, images) if kind == "cpu" else None
    stored = {tensor.data_ptr(): tensor for tensor in network.state_dict().values()}
    weights = sum(tensor.numel() * tensor.element_size() for tensor in stored.values())
    working = _working_cuda(network, images) if kind == "cuda" else None
    if kind == "cpu":
        working = _working_resident(network, images)
    return None if working is None else weights + working


def _working_cuda(network: nn.Module, images: Tensor) -> int:
    torch.cuda.synchronize(images.device)
    before = torch.cuda.memory_allocated(images.device)
    torch.cuda.reset_peak_memory_stats(images.device)
    network(images)
    torch.cuda.synchronize(images.device)
    return torch.cuda.max_memory_allocated(images.device) - before


def _working_resident(network: nn.Module, images: Tensor) -> int | None:
    network(images)
    before = _settle()
    if before is None:
        return None
    network(images)
    return max(0, _resident("VmHWM") - before)


def _of_a_copy(network: nn.Module, images: Tensor) -> int | None:
    before = _settle()
    if before is None:
        return None
    fresh = copy.deepcopy(network)
    fresh(images[:1])  # loads it, which takes more for a while than the network does
    _settle()
    fresh(images)
    return max(0, _resident("VmHWM") - before)


def _settle() -> int | None:
    """Give back what is free, reset the high-water mark, and tell resident bytes; None where Linux' files lack."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        _RESET.write_text(_RESET_HIGH_WATER)
        return _resident("VmRSS")
    except (OSError, AttributeError, KeyError):
        return None


def _resident(entry: str) -> int:
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return 1024 * int(lines[entry].split()[0])


def machine(device: torch.device | str) -> str:
    """The machine of a measurement: `AMD EPYC 7B13, 2 threads, torch 2.15.0`."""
    device = torch.device(device)
    version = f"torch {torch.__version__}"
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {version}"
    if device.type != "cpu":
        return f"{device.type} of {platform.machine()}, {version}"
    count = torch.get_num_threads()
    return f"{_processor()}, {count} thread{'' if count == 1 else 's'}, {version}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
