"""The cost of networks: parameters, FLOPs, bytes, latency, rows per second, memory; of a student and of its teachers.

Networks that are to be compared are timed in turns, round by round, so that a machine that is busy for a while
is busy for all of them. One batch size serves all: the smallest at which, taken together, they have stopped to
gain from larger ones. `compare_networks` calls `compare_costs`.
"""

import gc
import math
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import reduce
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor, nn

from distill_mtl.evaluation.memory import machine, peak_memory
from distill_mtl.evaluation.network_costs import BUSY, Cost, Costs, HeadCost, NodeCost
from distill_mtl.networks.flops import flop_counter, flops_of
from distill_mtl.networks.modes import evaluating
from distill_mtl.students.student import FAMILIES, Body, Computation
from distill_mtl.teachers.shared_trunks import JoinedTeachers
from distill_mtl.teachers.teacher import Teacher

Note = Callable[[str], None]
"""Called with what is being measured, to show progress."""

MOST_ROWS = 4096
"""Largest batch that is tried on a GPU, whose memory ends in an error and not in the process's."""
_WARM_RUNS = 3
_TIMED_RUNS, _TIMED_SECONDS = 30, 1.0
_SEARCH_RUNS, _SEARCH_SECONDS = 8, 0.2
_LONGEST_PASS = 1.0  # seconds that a pass may take before batches stop growing
_GAIN = 1.05
_PATIENCE = 2  # doublings without a gain: one alone may have met a busy moment
_RESTLESS = 1.5  # times that a median pass may take what the fastest one does


def compare_costs(
    student: nn.Module,
    teachers: Mapping[str, nn.Module],
    size: tuple[int, int],
    device: torch.device | str,
    *,
    batch_size: int,
    note: Note = lambda text: None,
) -> Costs:
    """The cost of a student and of the teachers that it replaces, measured in turns.

    Teachers together are a sum (`Cost.__add__`) over what has to run for all tasks: one that teaches two tasks
    counts once, and so does a trunk that several share.

    Args:
        student, teachers: on the device; a task without a teacher is absent.
        size: height and width of the images.
        device: where the networks are.
        batch_size: of the comparison, which has shown that such batches fit.
        note: called with what is being measured.
    """
    runs = _runs(teachers)
    distinct = list({id(network): network for network in (*runs, *teachers.values())}.values())
    measured = costs_of([student, *distinct], size, device, known=batch_size, note=note)
    mine, *theirs = measured.costs
    cost = {id(network): found for network, found in zip(distinct, theirs, strict=True)}
    return Costs(
        student=mine,
        teachers=reduce(Cost.__add__, [cost[id(run)] for run in runs]) if runs else None,
        each={task: cost[id(teacher)] for task, teacher in teachers.items()},
        heads=head_costs(student, size, mine, device),
        nodes=node_costs(student, size, mine, device, timed=True),
        machine=machine(device) + (BUSY if measured.unrest > _RESTLESS else ""),
    )


def latencies_of(passes: Sequence[Callable[[], object]]) -> list[float]:
    """Milliseconds of each, the median of up to 30 passes within about a second, in turns."""
    runs = [lambda _, one=one: one() for one in passes]
    for one in passes:
        one()
    return [1000 * median(own) for own in _in_turns(runs, torch.zeros(0), _TIMED_RUNS, _TIMED_SECONDS)]


class Measured(NamedTuple):
    """What networks cost, and how reliable the times are.

    Attributes:
        costs: of each network.
        unrest: the largest ratio of a median pass to the fastest one of the same batch; well above 1 where the
            machine has other work, which costs long passes more than short ones.
    """

    costs: list[Cost]
    unrest: float


def cost_of(network: nn.Module, size: tuple[int, int], device: torch.device | str = "cpu") -> Cost:
    """Cost of one network alone; see `costs_of`."""
    return costs_of([network], size, device).costs[0]


def costs_of(
    networks: Sequence[nn.Module],
    size: tuple[int, int],
    device: torch.device | str = "cpu",
    *,
    known: int = 256,
    note: Note = lambda text: None,
) -> Measured:
    """Cost of each network on images [B, 3, height, width] in [0, 1], its own preprocessing included.

    FLOPs are those of convolutions, matrix products and attention, as torch's counter has them, the same in every
    version of torch; a network that another runtime runs has none that it could see. What such a network says of its
    `parameter_count` is used. Latency is the median of up to 30 passes of one image within about a second; rows per
    second follow from the median pass of a batch that saturates; memory is the peak of a pass of that batch
    (`peak_memory`).

    Args:
        networks: on the device; they are timed in turn.
        size: height and width of the images.
        device: where the networks are.
        known: rows of a batch that fits, for sure. On a GPU larger ones are tried too.
        note: called with what is being measured.
    """
    with ExitStack() as modes, torch.no_grad():
        for network in networks:
            modes.enter_context(evaluating(network))
        return _costs(networks, size, torch.device(device), known, note)


def head_costs(
    student: nn.Module, size: tuple[int, int], whole: Cost, device: torch.device | str = "cpu"
) -> dict[str, HeadCost]:
    """The parameters of each head, and its FLOPs for one image, by task.

    Args:
        student: a `Student`, or a module that holds one, such as a loaded folder. Any other has no heads that
            could be found.
        size: height and width of the image.
        whole: cost of the student.
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
    image = _images(1, size, torch.device(device))
    with torch.no_grad(), evaluating(student), flop_counter() as counter:
        student(image)
    counts = counter.get_flop_counts()
    return {
        task: HeadCost.of(
            sum(parameter.numel() for parameter in head.parameters()),
            sum(counts.get(f"{type(student).__name__}.{place}.{task}", {}).values()),
            whole,
        )
        for task, head in heads.items()
    }


def node_costs(
    student: nn.Module,
    size: tuple[int, int],
    whole: Cost | None = None,
    device: torch.device | str = "cpu",
    *,
    timed: bool = False,
) -> dict[str, NodeCost]:
    """The parameters of each part of the trunk, and its FLOPs for one image, by name, parents first.

    Args:
        student: a `Student`, or a module that holds one; of any other, and of a student whose tasks share the whole
            trunk, there are no parts.
        size: height and width of the image.
        whole: cost of the student; None: shares are those of the trunk.
        device: where the student is.
        timed: measure also the latency of each part, in turns, by fewer passes than the student's.
    """
    trunk = next((module for module in student.modules() if isinstance(module, Body)), None)
    if trunk is None or not trunk.parts:
        return {}
    image = _images(1, size, torch.device(device))
    flops: Counter[str] = Counter()
    with torch.no_grad(), evaluating(student):
        computed = trunk.computed(image)
        for one in computed:
            with flop_counter() as counter:
                one.run()
            flops[one.part] += counter.get_total_flops()
        times = _times_of(computed, image) if timed else {}
    parameters = {part: sum(value.numel() for value in trunk.owned(part).values()) for part in flops}
    if whole is None:
        whole = Cost(parameters=sum(parameters.values()), flops=flops.total(), bytes=None, latency_ms=0.0)
    first = {one.part: one for one in reversed(computed)}
    return {
        part: NodeCost(
            **vars(HeadCost.of(parameters[part], flops[part], whole)),
            tasks=list(first[part].tasks),
            parent=first[part].parent,
            begins=first[part].begins,
            latency_ms=times.get(part),
        )
        for part in flops
    }


def _times_of(computed: Sequence[Computation], image: Tensor) -> dict[str, float]:
    """Milliseconds of each part of a trunk for one image, without the parts before it."""
    passes = [lambda _, one=one: one.run() for one in computed]
    times = _in_turns(passes, image, _SEARCH_RUNS, _SEARCH_SECONDS)
    total: defaultdict[str, float] = defaultdict(float)
    for one, own in zip(computed, times, strict=True):
        total[one.part] += 1000 * median(own)
    return dict(total)


def networks_run(nodes: Mapping[str, NodeCost], trunk: Body) -> float:
    """FLOPs of all parts of a trunk as a multiple of one plain network's: 1 where all is shared, T where nothing is."""
    with torch.random.fork_rng(devices=[]):
        whole = FAMILIES[trunk.family].restore(trunk.describe_whole())
    one = flops_of(whole, _images(1, trunk.inputs.size, torch.device("cpu")))
    return sum(node.flops for node in nodes.values()) / one if one else 1.0


def _costs(
    networks: Sequence[nn.Module], size: tuple[int, int], device: torch.device, known: int, note: Note
) -> Measured:
    note("cost: one image")
    image = _images(1, size, device)
    flops = []
    for network in networks:
        with flop_counter() as counter:
            network(image)
        flops.append(counter.get_total_flops() or None)
    for network in networks:
        for _ in range(_WARM_RUNS):
            network(image)
    latencies = _in_turns(networks, image, _TIMED_RUNS, _TIMED_SECONDS)
    batch = _saturating(networks, size, device, known, note)
    note(f"cost: batches of {batch}")
    images = _images(batch, size, device)
    passes = latencies if batch == 1 else _in_turns(networks, images, _TIMED_RUNS, _TIMED_SECONDS)
    note(f"cost: memory of a batch of {batch}")
    gc.collect()  # once: it takes a second, and would run within a pass else
    costs = []
    for network, count, latency, seconds in zip(networks, flops, latencies, passes, strict=True):
        parameters = sum(parameter.numel() for parameter in network.parameters())
        hidden = None if parameters else network
        costs.append(
            Cost(
                parameters=parameters or getattr(hidden, "parameter_count", None),
                flops=count,
                bytes=_weights_bytes(network) or getattr(hidden, "parameter_bytes", None),
                latency_ms=1000 * median(latency),
                batch=batch,
                rows_per_second=batch / median(seconds),
                peak_memory=peak_memory(network, images),
            )
        )
    unrest = max(median(own) / min(own) for own in (*latencies, *passes))
    return Measured(costs, unrest)


def _saturating(
    networks: Sequence[nn.Module], size: tuple[int, int], device: torch.device, known: int, note: Note
) -> int:
    """The smallest batch whose rows per second, as a geometric mean over the networks, are within 5 % of the best.

    Batches double until two doublings bring no more than 5 %, a pass takes long, or one does not fit.
    """
    most = MOST_ROWS if device.type == "cuda" else known
    rates: dict[int, float] = {}
    batch, idle = 1, 0
    while True:
        note(f"cost: batches of {batch}")
        try:
            images = _images(batch, size, device)
            times = _in_turns(networks, images, _SEARCH_RUNS, _SEARCH_SECONDS)
        # Runtimes have no common error for too large a batch.
        except Exception:
            if batch <= known:
                raise
            torch.cuda.empty_cache()
            break
        fastest = [min(own) for own in times]  # what others do on this machine only ever slows a pass
        best = max(rates.values(), default=0.0)
        rates[batch] = math.exp(sum(math.log(batch / seconds) for seconds in fastest) / len(fastest))
        idle = 0 if rates[batch] > _GAIN * best else idle + 1
        if idle == _PATIENCE or 2 * batch > most or 2 * max(fastest) > _LONGEST_PASS:
            break
        batch *= 2
    return next(batch for batch, rate in rates.items() if _GAIN * rate >= max(rates.values()))


def _in_turns(
    networks: Sequence[Callable[[Tensor], object]], images: Tensor, rounds: int, seconds: float
) -> list[list[float]]:
    """Seconds of each network's passes. Before each comes one that is not timed: the network before it in the round
    has emptied the caches. The order of a round is random: other work on the machine comes and goes in slices
    of time, which could fall on the same network every round."""
    times: list[list[float]] = [[] for _ in networks]
    lot, turns = random.Random(0), list(zip(networks, times, strict=True))
    end = time.perf_counter() + seconds * len(networks)
    while not times[0] or (len(times[0]) < rounds and time.perf_counter() < end):
        for network, own in lot.sample(turns, len(turns)):
            network(images)
            _wait(images)
            start = time.perf_counter()
            network(images)
            _wait(images)
            own.append(time.perf_counter() - start)
    return times


def _images(batch: int, size: tuple[int, int], device: torch.device) -> Tensor:
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)


def _weights_bytes(network: nn.Module) -> int:
    """Of everything a checkpoint of the network holds, shared tensors once, floats as float32."""
    stored = {(tensor.data_ptr(), tensor.shape): tensor for tensor in network.state_dict().values()}
    return sum(
        tensor.numel() * (4 if tensor.is_floating_point() else tensor.element_size())
        for tensor in stored.values()
    )


def _wait(images: Tensor) -> None:
    """Until an accelerator has finished: its calls return before their work is done."""
    if images.device.type != "cpu":
        torch.accelerator.synchronize(images.device)


def _runs(teachers: Mapping[str, nn.Module]) -> list[nn.Module]:
    """The networks that have to run for all tasks; those that share a trunk as one."""
    groups: dict[int, dict[int, nn.Module]] = {}
    for teacher in teachers.values():
        trunk = teacher.network.trunk if isinstance(teacher, Teacher) else teacher
        groups.setdefault(id(trunk), {})[id(teacher)] = teacher
    runs: list[nn.Module] = []
    for group in groups.values():
        members = list(group.values())
        sharing = {str(place): member for place, member in enumerate(members) if isinstance(member, Teacher)}
        runs.append(members[0] if len(members) == 1 else JoinedTeachers(sharing))
    return runs
