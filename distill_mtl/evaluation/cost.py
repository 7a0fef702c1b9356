"""What a network costs for one image: parameters, FLOPs, bytes, latency; and its heads. Called by `evaluate`."""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from distill_mtl.evaluation.results import Cost, HeadCost
from distill_mtl.networks.evaluating import evaluating

_WARM_RUNS = 3
_TIMED_RUNS = 30
_TIMED_SECONDS = 1.0


def cost_of(network: nn.Module, size: tuple[int, int], device: torch.device | str = "cpu") -> Cost:
    """Cost of one image [1, 3, height, width] in [0, 1], the network's own preprocessing included.

    FLOPs are those of convolutions, matrix products and attention, as torch's counter has them; a network
    that another runtime runs has none that it could see. What such a network says of its `parameter_count` is
    believed.
    """
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad(), evaluating(network):
        with FlopCounterMode(display=False) as counter:
            network(image)
        latency = _median_ms(lambda: network(image), image)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    hidden: int | None = None if parameters else getattr(network, "parameter_count", None)
    return Cost(
        parameters=parameters or hidden,
        flops=counter.get_total_flops() or None,
        bytes=_weights_bytes(network) or (4 * hidden if hidden else None),
        latency_ms=latency,
    )


def head_costs(
    student: nn.Module, size: tuple[int, int], device: torch.device | str = "cpu"
) -> dict[str, HeadCost]:
    """By task, what each head takes of a student's parameters and FLOPs for one image.

    Args:
        student: a `Student`, or a module that holds one, such as a loaded folder. Any other has no heads that
            could be found.
        size: height and width of the image.
        device: where the student is.
    """
    found = [
        (name, module)
        for name, module in student.named_modules()
        if name.rpartition(".")[2] == "heads" and isinstance(module, nn.ModuleDict)
    ]
    if not found:
        return {}
    place, heads = found[0]
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad(), evaluating(student), FlopCounterMode(display=False) as counter:
        student(image)
    counts = counter.get_flop_counts()
    return {
        task: HeadCost(
            sum(parameter.numel() for parameter in head.parameters()),
            sum(counts.get(f"{type(student).__name__}.{place}.{task}", {}).values()),
        )
        for task, head in heads.items()
    }


def _weights_bytes(network: nn.Module) -> int:
    """Of everything a checkpoint of the network holds, shared tensors once, floats as float32."""
    stored = {(tensor.data_ptr(), tensor.shape): tensor for tensor in network.state_dict().values()}
    return sum(
        tensor.numel() * (4 if tensor.is_floating_point() else tensor.element_size())
        for tensor in stored.values()
    )


def _median_ms(forward: Callable[[], object], image: Tensor) -> float:
    """Median of up to 30 forward passes within about a second, after three to warm up."""
    for _ in range(_WARM_RUNS):
        forward()
    times: list[float] = []
    while len(times) < _TIMED_RUNS and sum(times) < _TIMED_SECONDS:
        _wait(image)
        start = time.perf_counter()
        forward()
        _wait(image)
        times.append(time.perf_counter() - start)
    return 1000 * median(times)


def _wait(image: Tensor) -> None:
    """Until an accelerator has finished: its calls return before their work is done."""
    if image.device.type != "cpu":
        torch.accelerator.synchronize(image.device)
