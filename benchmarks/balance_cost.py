"""What each balancing rule costs per step, as a ratio to `uniform`, as a Markdown table.

    OMP_NUM_THREADS=2 python benchmarks/balance_cost.py [--rounds 15] [--trees]

timm's resnet18 at 64 px, batch 32, with 3 and with 8 linear heads: forward, backward by the rule, SGD
step. Rounds are interleaved, so that other work on the machine affects all of them; figures are medians
of process CPU time. "plain sum" is one backward pass without a cut; TorchJD's `mtl_backward` with its
MGDA runs in the same rounds, batched by vmap and task by task. Peak memory is that of all tensors,
weights included, as torch's profiler counts allocations over two steps.

Students in parts have a table of their own (`--trees`: it alone): `uniform` and `mgda_ub` on the cut tree as ratios to
one backward pass of the same tree without a cut. The bad case is one whose branches hold more of the computation than
its root: root (all five tasks), from it A (a, b) and B (c, d, e), from B again C (d, e), branches twice as wide.
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

from distill_mtl.balance import Shared, Tree, make_rule
from distill_mtl.students.shape import shaped
from distill_mtl.students.student import FAMILIES

BATCH, SIZE, CLASSES = 32, 64, 10
RULES = ("uniform", "mgda_ub", "torchjd:UPGrad", "gradnorm", "uncertainty", "geometric", "mgda")
OTHERS = ("plain sum", "TorchJD MGDA, vmap", "TorchJD MGDA, sequential")
COUNTS = (3, 8)


TREE_RULES = ("uniform", "mgda_ub")
BAD_CASE = {"root": (None, "abcde"), "A": ("root", "ab"), "B": ("root", "cde"), "C": ("B", "de")}
"""Node -> its parent, and the tasks that run through it, a letter each."""
GROUPS = [["a", "b"], ["c", "d", "e"]]
TREES = {
    "three tasks leave resnet18 at layer4": ("abc", {"layer4": "own"}),
    "five tasks, two groups from layer3, all apart from layer4": (
        "abcde",
        {"layer3": GROUPS, "layer4": "own"},
    ),
    "the bad case": ("abcde", None),
}


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


class BadCase(nn.Module):
    """A root of one half the branches' width; b and e read the root too."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()

        def block(channels: int, out: int, stride: int = 1) -> nn.Module:
            parts = []
            for given, by in ((channels, stride), (out, 1)):
                parts += [nn.Conv2d(given, out, 3, by, 1, bias=False), nn.GroupNorm(4, out), nn.ReLU()]
            return nn.Sequential(*parts)

        twice = 2 * width
        self.nodes = nn.ModuleDict(
            {
                "root": nn.Sequential(block(3, width, 2), block(width, width)),
                "A": block(width, twice, 2),
                "B": block(width, twice, 2),
                "C": block(twice, twice),
            }
        )

    def features(self, images: Tensor) -> dict[str, dict[str, Tensor]]:
        """Task -> its features by node, without a cut."""
        found: dict[str, Tensor] = {}
        for name, (parent, _) in BAD_CASE.items():
            found[name] = self.nodes[name](images if parent is None else found[parent])
        return {task: {name: found[name] for name in self.read(task)} for task in "abcde"}

    def tree(self, images: Tensor) -> Tree:
        tree = Tree("abcde")
        for name, (parent, tasks) in BAD_CASE.items():
            tree.add(name, list(tasks), self.nodes[name], parent=parent, inputs=images)
        return tree

    def read(self, task: str) -> list[str]:
        path = [name for name, (_, tasks) in BAD_CASE.items() if task in tasks]
        return path if task in "be" else path[-1:]


class ResNet(nn.Module):
    """A student in parts, as a recipe makes it."""

    def __init__(self, tasks: str, branch: dict) -> None:
        super().__init__()
        whole = FAMILIES["timm"].create("resnet18", {}, (SIZE, SIZE), pretrained=False)
        self.tasks, self.trunk = list(tasks), shaped(whole, {"branch": branch}, list(tasks))
        self.trunk.tap(("pooled",))

    def features(self, images: Tensor) -> dict[str, dict[str, Tensor]]:
        found = self.trunk(images)
        return {task: dict(self.trunk.of(task, found)) for task in self.tasks}

    def tree(self, images: Tensor) -> Tree:
        return self.trunk.cut(images, self.tasks)

    def read(self, task: str) -> list[str]:
        return ["pooled"]


def make_tree_step(tasks: str, branch: dict | None, method: str) -> Callable[[], None]:
    """One training step of a student in parts; `branch` None: of the bad case."""
    torch.manual_seed(0)
    net = BadCase() if branch is None else ResNet(tasks, branch)
    size = 48 if branch is None else SIZE
    images, labels = torch.rand(BATCH, 3, size, size), torch.randint(CLASSES, (len(tasks), BATCH))
    heads = nn.ModuleDict({task: nn.LazyLinear(CLASSES) for task in tasks})

    def losses(features: Callable[[str], dict[str, Tensor]]) -> dict[str, Tensor]:
        found = {}
        for task, label in zip(tasks, labels, strict=True):
            read = [features(task)[name] for name in net.read(task)]
            flat = [each.mean((2, 3)) if each.ndim == 4 else each for each in read]
            found[task] = cross_entropy(heads[task](torch.cat(flat, 1)), label)
        return found

    losses(net.features(images).__getitem__)
    optimizer = torch.optim.SGD([*net.parameters(), *heads.parameters()], lr=0.01)
    rule = make_rule(method, list(tasks)) if method in TREE_RULES else None

    def step() -> None:
        optimizer.zero_grad()
        if rule is None:
            torch.stack(list(losses(net.features(images).__getitem__).values())).sum().backward()
        else:
            tree = net.tree(images)
            rule.backward(losses(tree.__getitem__), tree)
        optimizer.step()

    return step


def interleaved(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of process CPU time per step, by method."""
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
    parser.add_argument("--trees", action="store_true", help="only the table of students in parts")
    options = parser.parse_args()
    if not options.trees:
        print_rules(options.rounds)
    print_trees(options.rounds)


def print_trees(rounds: int) -> None:
    print("| student in parts | plain sum: ms | " + " | ".join(TREE_RULES) + " |")
    print("|---|---|" + "---|" * len(TREE_RULES))
    for name, (tasks, branch) in TREES.items():
        methods = ("plain sum", *TREE_RULES)
        times = interleaved({method: make_tree_step(tasks, branch, method) for method in methods}, rounds)
        plain = times["plain sum"]
        cells = "".join(f" {times[method] / plain:.3f} |" for method in TREE_RULES)
        print(f"| {name} | {1e3 * plain:.0f} |{cells}", flush=True)


def print_rules(rounds: int) -> None:
    print("| method |" + "".join(f" T = {t}: time | T = {t}: peak MiB |" for t in COUNTS))
    print("|---|" + "---|---|" * len(COUNTS))
    times = {
        count: interleaved({method: make_step(method, count) for method in (*RULES, *OTHERS)}, rounds)
        for count in COUNTS
    }
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
