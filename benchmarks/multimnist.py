"""Left and right digit of MultiMNIST by the protocol of Sener & Koltun 2018 (section 5.1), beside their table:

    python benchmarks/multimnist.py [--epochs 100] [--seeds 1]

Rows: two single-task networks; one network of both tasks under each balancing rule; and one whose teachers are
the two single-task networks (soft targets and a hint at the last shared layer, on top of the labels). Every row is
a process of one thread, two at a time, kept in runs/multimnist/ and skipped where it is finished. MNIST's four IDX
files are looked for in $DISTILL_MTL_DATA/mnist, else in ../shared/data/mnist beside the repository.
"""

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill_mtl.balance import Shared, make_rule
from distill_mtl.distillation.hints import Hint
from distill_mtl.networks.features import FeatureShape
from distill_mtl.tasks.divergence import soft_divergence

TASKS = ("left", "right")
RUNS = Path("runs/multimnist")
DATA = Path(os.environ.get("DISTILL_MTL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
VALIDATION = 5_000  # the last composites of 60,000, made of the last 5,000 digits alone
BATCH, RATE, MOMENTUM, TEMPERATURE = 256, 0.05, 0.9, 4.0
WIDTH = 50  # of the shared representation


@dataclass(frozen=True)
class Row:
    """What a row of the table trains, and what Sener & Koltun report for it (accuracy in %)."""

    tasks: tuple[str, ...] = TASKS
    rule: str = "uniform"
    options: Mapping[str, Any] = field(default_factory=dict)
    taught: bool = False
    theirs: Mapping[str, float] = field(default_factory=dict)


SINGLE = {
    "single-left": Row(("left",), theirs={"left": 97.23}),
    "single-right": Row(("right",), theirs={"right": 95.90}),
}
PUBLISHED = {"normalize": "none", "scale": 1.0}  # section 3.3 as printed; our defaults normalise
JOINT = {
    "uniform": Row(theirs={"left": 96.46, "right": 94.99}),
    "uncertainty": Row(rule="uncertainty", theirs={"left": 96.47, "right": 95.29}),
    "gradnorm": Row(rule="gradnorm", theirs={"left": 96.27, "right": 94.84}),
    "mgda_ub-published": Row(rule="mgda_ub", options=PUBLISHED, theirs={"left": 97.26, "right": 95.90}),
    "mgda_ub": Row(rule="mgda_ub"),
    "taught-uniform": Row(taught=True),
    "taught-mgda_ub": Row(rule="mgda_ub", taught=True),
}
ROWS = SINGLE | JOINT
TITLES = {
    "two single-task networks": ("single-left", "single-right"),
    "`uniform`": ("uniform",),
    "`uncertainty`": ("uncertainty",),
    "`gradnorm`": ("gradnorm",),
    "`mgda_ub` as published (`normalize: none, scale: 1`)": ("mgda_ub-published",),
    "`mgda_ub`, our defaults": ("mgda_ub",),
    "teachers + hints, `uniform`": ("taught-uniform",),
    "teachers + hints, `mgda_ub`": ("taught-mgda_ub",),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--row", choices=ROWS, help="train this row alone, in this process")
    parser.add_argument("--seed", type=int, default=0, help="of --row")
    arguments = parser.parse_args()
    if not (DATA / "mnist").is_dir():
        sys.exit(f"no MNIST in {DATA / 'mnist'}: set DISTILL_MTL_DATA to the folder that holds mnist/*.gz")
    if arguments.row is not None:
        torch.set_num_threads(1)
        train(arguments.row, arguments.seed, arguments.epochs)
        return
    for rows in (SINGLE, JOINT):  # the second has the first as teachers
        make_all((row, seed, arguments.epochs) for seed in range(arguments.seeds) for row in rows)
    print_table(arguments.epochs, range(arguments.seeds))


# Rows ---------------------------------------------------------------------------------------------------------


def make_all(jobs: Iterable[tuple[str, int, int]]) -> None:
    """Run the rows (name, seed, epochs) that have no results yet, two at a time."""
    missing = [job for job in jobs if not place(*job, ".json").exists()]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run_apart, missing))


def run_apart(job: tuple[str, int, int]) -> None:
    row, seed, epochs = job
    command = [sys.executable, __file__, f"--row={row}", f"--seed={seed}", f"--epochs={epochs}"]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def place(row: str, seed: int, epochs: int, suffix: str) -> Path:
    return RUNS / f"{row}-{seed}-{epochs}{suffix}"


def print_table(epochs: int, seeds: Iterable[int]) -> None:
    print("| network | left | right | theirs: left | theirs: right | CPU minutes |")
    print("|---|---:|---:|---:|---:|---:|")
    for title, rows in TITLES.items():
        results = [
            [json.loads(place(row, seed, epochs, ".json").read_text()) for row in rows] for seed in seeds
        ]
        ours: dict[str, list[float]] = {task: [] for task in TASKS}
        theirs: dict[str, float] = {}
        for row, *of_seeds in zip(rows, *results, strict=True):
            theirs |= ROWS[row].theirs
            for result in of_seeds:
                for task, accuracy in result["test"].items():
                    ours[task].append(accuracy)
        minutes = statistics.mean(sum(result["cpu_minutes"] for result in of_seed) for of_seed in results)
        cells = [spread(ours[task]) for task in TASKS]
        cells += [f"{theirs[task]:.2f}" if task in theirs else "" for task in TASKS]
        print(f"| {title} | {' | '.join(cells)} | {minutes:.0f} |")


def spread(values: list[float]) -> str:
    """Mean, and the standard deviation where there are several values."""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


# Data ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Composites:
    """Pictures of two digits, uint8 [N, 1, 28, 28], and both labels, int64 [N]."""

    images: Tensor
    labels: dict[str, Tensor]


def load() -> tuple[Composites, Composites, Composites]:
    """Training, validation and test composites; no digit is in two of them."""
    digits, labels = read_idx("train-images-idx3-ubyte"), read_idx("train-labels-idx1-ubyte")
    return (
        compose(digits[:-VALIDATION], labels[:-VALIDATION], seed=0),
        compose(digits[-VALIDATION:], labels[-VALIDATION:], seed=1),
        compose(read_idx("t10k-images-idx3-ubyte"), read_idx("t10k-labels-idx1-ubyte"), seed=2),
    )


def read_idx(name: str) -> Tensor:
    """A gzipped IDX file of bytes: two zeros, the type, the number of dimensions, the sizes, the values."""
    with gzip.open(DATA / "mnist" / f"{name}.gz") as file:
        content = file.read()
    sizes = np.frombuffer(content, ">u4", count=content[3], offset=4).astype(int)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * content[3])
    return torch.from_numpy(values.reshape(sizes).copy())


def compose(digits: Tensor, labels: Tensor, *, seed: int) -> Composites:
    """Each digit once at the top left of 36x36, a random one 6 pixels lower and further right.

    The brighter pixel wins where they overlap; shrunk to 28x28 by the nearest pixel, as their code does.
    """
    others = torch.randint(len(digits), (len(digits),), generator=torch.Generator().manual_seed(seed))
    canvas = torch.zeros(len(digits), 36, 36, dtype=torch.uint8)
    canvas[:, :28, :28] = digits
    canvas[:, 6:34, 6:34] = torch.maximum(canvas[:, 6:34, 6:34], digits[others])
    images = F.interpolate(canvas[:, None], size=(28, 28), mode="nearest-exact")
    return Composites(images, {"left": labels.long(), "right": labels[others].long()})


def normalised(images: Tensor) -> Tensor:
    """uint8 [B, 1, 28, 28] as the network wants it: MNIST's mean 0 and deviation 1."""
    return images.float().sub_(255 * 0.1307).div_(255 * 0.3081)


# Network ------------------------------------------------------------------------------------------------------


class Network(nn.Module):
    """Their LeNet: two convolutions and a linear layer are shared, each task has two linear layers."""

    def __init__(self, tasks: Iterable[str]) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 10, kernel_size=5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(10, 20, kernel_size=5),
            nn.Dropout2d(),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(320, WIDTH),
            nn.ReLU(),
        )
        self.heads = nn.ModuleDict(
            {
                task: nn.Sequential(nn.Linear(WIDTH, 50), nn.ReLU(), nn.Dropout(), nn.Linear(50, 10))
                for task in tasks
            }
        )


@torch.no_grad()
def answers(network: Network, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The shared representation [N, 50] and every task's logits [N, 10], in evaluation mode."""
    network.eval()
    shared = torch.cat([network.trunk(normalised(part)) for part in images.split(1000)])
    return shared, {task: head(shared) for task, head in network.heads.items()}


def accuracies(network: Network, data: Composites) -> dict[str, float]:
    """Accuracy in % by task."""
    _, logits = answers(network, data.images)
    return {
        task: 100 * (logits[task].argmax(1) == data.labels[task]).double().mean().item() for task in logits
    }


# Training -----------------------------------------------------------------------------------------------------


def train(name: str, seed: int, epochs: int) -> None:
    """Train a row, keep the epoch that is best on validation, and write its weights and results."""
    row = ROWS[name]
    training, validation, test = load()
    torch.manual_seed(seed)
    network = Network(row.tasks).to(memory_format=torch.channels_last)
    teachers = {task: Teacher(task, seed, epochs, training.images) for task in TASKS if row.taught}
    rule = make_rule(row.rule, row.tasks, **row.options)
    everything = nn.ModuleList([network, rule, *(teacher.hint for teacher in teachers.values())])
    optimizer = torch.optim.SGD(everything.parameters(), lr=RATE, momentum=MOMENTUM)
    # Theirs is halved every 30 epochs of 100; a shorter run keeps the proportions.
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=max(1, round(0.3 * epochs)), gamma=0.5)

    best: dict[str, Any] = {"mean": -1.0}
    for epoch in range(1, epochs + 1):
        network.train()
        for rows in torch.randperm(len(training.images)).split(BATCH):
            shared = Shared(network.trunk(normalised(training.images[rows])), row.tasks)
            losses = {}
            for task in row.tasks:
                logits = network.heads[task](shared[task])
                losses[task] = F.cross_entropy(logits, training.labels[task][rows])
                if task in teachers:
                    losses[task] = losses[task] + teachers[task].loss(logits, shared[task], rows)
            weights = rule.backward(losses, shared)
            optimizer.step()
            optimizer.zero_grad()
        schedule.step()
        scores = accuracies(network, validation)
        if statistics.mean(scores.values()) > best["mean"]:
            best = {"mean": statistics.mean(scores.values()), "epoch": epoch, "validation": scores}
            state = deepcopy(network.state_dict())
        shown = " ".join(f"{task} {scores[task]:.2f} (weight {weights[task]:.2f})" for task in row.tasks)
        minutes = time.process_time() / 60
        print(
            f"{name} {seed}: epoch {epoch}/{epochs}, {shown}, {minutes:.1f} min", file=sys.stderr, flush=True
        )

    network.load_state_dict(state)
    results = {
        "test": accuracies(network, test),
        "validation": best["validation"],
        "best_epoch": best["epoch"],
        "cpu_minutes": time.process_time() / 60,
    }
    RUNS.mkdir(parents=True, exist_ok=True)
    write(place(name, seed, epochs, ".pt"), lambda path: torch.save(state, path))
    write(place(name, seed, epochs, ".json"), lambda path: path.write_text(json.dumps(results, indent=2)))


class Teacher:
    """A task's single-task network, asked once about every training picture (there is no augmentation)."""

    def __init__(self, task: str, seed: int, epochs: int, images: Tensor) -> None:
        network = Network([task]).to(memory_format=torch.channels_last)
        network.load_state_dict(torch.load(place(f"single-{task}", seed, epochs, ".pt"), weights_only=True))
        self.hidden, logits = answers(network, images)
        self.logits = logits[task]
        shape = FeatureShape(WIDTH, size=None)
        self.hint = Hint(shape, shape)
        self.hint.calibrate([self.hidden])

    def loss(self, logits: Tensor, shared: Tensor, rows: Tensor) -> Tensor:
        """Soft targets and hint, means over the rows, each with weight 1 as in a recipe."""
        soft = soft_divergence(logits, self.logits[rows], TEMPERATURE).mean()
        return soft + self.hint(shared, self.hidden[rows]).mean()


def write(path: Path, save: Callable[[Path], Any]) -> None:
    """A file is there whole or not at all: its presence means that the row is finished."""
    aside = path.with_name(f"{path.name}.part")
    save(aside)
    aside.replace(path)


if __name__ == "__main__":
    main()
