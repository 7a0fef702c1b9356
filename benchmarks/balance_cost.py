"""What each balancing rule costs per step, as a ratio to `uniform`, as a Markdown table.

    OMP_NUM_THREADS=2 python benchmarks/balance_cost.py [--rounds 15]

timm's resnet18 at 64 px, batch 32, with 3 and with 8 linear heads: forward, backward by the rule, SGD
step. Rounds are interleaved, so that other work on the machine affects all of them; figures are medians
of process CPU time. "plain sum" is one backward pass without a cut; TorchJD's `mtl_backward` with its
MGDA runs in the same rounds, batched by vmap and task by task. Peak memory is that of all tensors,
weights included, as torch's profiler counts allocations over two steps.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile
from torchjd.aggregation import MGDA
from torchjd.autojac import jac_to_grad, mtl_backward

from distill_mtl.balance import Shared, make_rule

BATCH, SIZE, CLASSES = 32, 64, 10
RULES = ("uniform", "mgda_ub", "torchjd:UPGrad", "gradnorm", "uncertainty", "geometric", "mgda")
OTHERS = ("plain sum", "TorchJD MGDA, vmap", "TorchJD MGDA, sequential")
COUNTS = (3, 8)


class Network(nn.Module):
    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.trunk = timm.create_model("resnet18", num_classes=0)
        self.heads = nn.ModuleList(nn.Linear(512, CLASSES) for _ in range(tasks))


def make_step(method: str, count: int) -> Callable[[], None]:
    """One training step of `count` tasks by `method`, on data of its own."""
    torch.manual_seed(0)
    tasks = [f"task{k}" for k in range(count)]
    net = Network(count)
    images, labels = torch.randn(BATCH, 3, SIZE, SIZE), torch.randint(CLASSES, (count, BATCH))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    rule = make_rule(method, tasks) if method in RULES else None

    def losses(at: Callable[[int], Tensor]) -> list[Tensor]:
        return [cross_entropy(head(at(k)), labels[k]) for k, head in enumerate(net.heads)]

    def step() -> None:
        optimizer.zero_grad()
        features = net.trunk(images)
        if rule is not None:
            shared = Shared(features, tasks)
            rule.backward(dict(zip(tasks, losses(lambda k: shared[tasks[k]]), strict=True)), shared)
        elif method == "plain sum":
            torch.stack(losses(lambda k: features)).sum().backward()
        else:
            chunk = 1 if "sequential" in method else None
            mtl_backward(losses(lambda k: features), features=features, parallel_chunk_size=chunk)
            jac_to_grad(net.trunk.parameters(), MGDA())
        optimizer.step()

    return step


def interleaved(count: int, rounds: int) -> dict[str, float]:
    """Median seconds of process CPU time per step, by method."""
    steps = {method: make_step(method, count) for method in (*RULES, *OTHERS)}
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {method: [] for method in steps}
    for _ in range(rounds):
        for method, step in steps.items():
            begin = time.process_time()
            step()
            seconds[method].append(time.process_time() - begin)
    return {method: statistics.median(times) for method, times in seconds.items()}


def peak(method: str, count: int) -> float:
    """MiB of tensors at the worst moment of two steps."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step = make_step(method, count)
        step()
        step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        seen.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    records = [e["args"] for e in sorted(events, key=lambda e: e.get("ts", 0)) if e["name"] == "[memory]"]
    first = records[0]
    before = first["Total Allocated"] - first["Bytes"]
    return (max(record["Total Allocated"] for record in records) - before) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    print("| method |" + "".join(f" T = {t}: time | T = {t}: peak MiB |" for t in COUNTS))
    print("|---|" + "---|---|" * len(COUNTS))
    times = {count: interleaved(count, options.rounds) for count in COUNTS}
    for method in (*OTHERS[:1], *RULES, *OTHERS[1:]):
        cells = [
            f" {times[count][method] / times[count]['uniform']:.3f} | {peak(method, count):.0f} |"
            for count in COUNTS
        ]
        print(f"| {method} |" + "".join(cells), flush=True)
    seconds = ", ".join(f"{1e3 * times[count]['uniform']:.0f} ms at T = {count}" for count in COUNTS)
    print(f"\nOne step of uniform takes {seconds} of CPU time on {torch.get_num_threads()} threads.")


if __name__ == "__main__":
    main()
