"""Left and right digit of MultiMNIST by the protocol of Sener & Koltun 2018 (section 5.1), beside their table:

    python benchmarks/multimnist.py [--epochs 100] [--seeds 1] [--only ROW ...]

Rows: two single-task networks; one network of both tasks under each balancing rule; and one whose teachers are the
two single-task networks (soft targets and a hint at the last shared layer, on top of the labels), also with a tenth
of the soft targets' weight or without softening, and without the hint; or annealed. Some rows step as a recipe's
default does, with Muon. Every row has the learning rate that is best on validation in runs of a tenth of its length.
Runs are processes of one thread, two at a time, kept in runs/multimnist/ and skipped where they are finished. MNIST's
four IDX files are looked for in $DISTILL_MTL_DATA/mnist, else in ../shared/data/mnist beside the repository.
"""

import argparse
import gzip
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill_mtl.balance import Shared, make_rule
from distill_mtl.distillation.term import TERMS
from distill_mtl.distillation.terms.hint import Hint
from distill_mtl.networks.features import FeatureShape
from distill_mtl.tasks.losses import soft_divergence
from distill_mtl.training.muon import Muon
from distill_mtl.training.target_providers import ANNEALED_EPOCHS

TASKS = ("left", "right")
RUNS = Path("runs/multimnist")
DATA = Path(os.environ.get("DISTILL_MTL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
VALIDATION = 5_000  # the last composites of 60,000, made of the last 5,000 digits alone
BATCH, MOMENTUM = 256, 0.9
RATES = (0.1, 0.05, 0.02, 0.01, 0.005)
WIDTH = 50  # of the shared representation


@dataclass(frozen=True)
class Row:
    """What a row of the table trains, and what Sener & Koltun report for it (accuracy in %)."""

    tasks: tuple[str, ...] = TASKS
    rule: str = "uniform"
    options: Mapping[str, Any] = field(default_factory=dict)
    taught: bool = False
    muon: bool = False
    temperature: float = 4.0
    soft: float = TERMS["soft_targets"].weight
    hint: float = TERMS["hint"].weight
    annealed: float | None = None
    """Epochs in which the teachers' weight falls to 0."""
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
    "taught-light": Row(taught=True, soft=0.1, hint=0.0),
    "taught-hard": Row(taught=True, temperature=1.0, hint=0.0),
    "annealed-uniform": Row(taught=True, annealed=ANNEALED_EPOCHS),
    "muon-uniform": Row(muon=True),
    "muon-mgda_ub": Row(muon=True, rule="mgda_ub"),
    "muon-taught-uniform": Row(muon=True, taught=True),
    "muon-taught-mgda_ub": Row(muon=True, rule="mgda_ub", taught=True),
    "muon-taught-light": Row(muon=True, taught=True, soft=0.1, hint=0.0),
    "muon-taught-hard": Row(muon=True, taught=True, temperature=1.0, hint=0.0),
    "muon-annealed-uniform": Row(muon=True, taught=True, annealed=ANNEALED_EPOCHS),
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
    "teachers, soft targets at a weight of 0.1, `uniform`": ("taught-light",),
    "teachers, temperature 1, `uniform`": ("taught-hard",),
    "teachers + hints, annealed, `uniform`": ("annealed-uniform",),
    "Muon, `uniform`": ("muon-uniform",),
    "Muon, `mgda_ub`": ("muon-mgda_ub",),
    "Muon, teachers + hints, `uniform`": ("muon-taught-uniform",),
    "Muon, teachers + hints, `mgda_ub`": ("muon-taught-mgda_ub",),
    "Muon, teachers, soft targets at a weight of 0.1, `uniform`": ("muon-taught-light",),
    "Muon, teachers, temperature 1, `uniform`": ("muon-taught-hard",),
    "Muon, teachers + hints, annealed, `uniform`": ("muon-annealed-uniform",),
}


@dataclass(frozen=True)
class Run:
    """One training of a row; `teachers` are the single-task runs of a row that is taught."""

    row: str
    seed: int
    epochs: int
    rate: float
    teachers: tuple["Run", ...] = ()

    def file(self, suffix: str) -> Path:
        return RUNS / f"{self.row}-{self.seed}-{self.epochs}-{self.rate}{suffix}"

    def results(self) -> dict[str, Any]:
        results: dict[str, Any] = json.loads(self.file(".json").read_text())
        return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--only", nargs="+", choices=JOINT, default=list(JOINT), metavar="ROW", help="beside the teachers"
    )
    arguments = parser.parse_args()
    if not (DATA / "mnist").is_dir():
        sys.exit(f"no MNIST in {DATA / 'mnist'}: set DISTILL_MTL_DATA to the folder that holds mnist/*.gz")
    seeds = range(arguments.seeds)
    done: dict[tuple[str, int], Run] = {}
    for rows in (SINGLE, arguments.only):  # the second has the first as teachers
        rates = choose_rates(rows, max(1, arguments.epochs // 10), done)
        runs = [
            Run(row, seed, arguments.epochs, rates[row], teachers_of(row, seed, done))
            for seed in seeds
            for row in rows
        ]
        make_all(runs)
        done |= {(run.row, run.seed): run for run in runs}
    print_table(done, seeds)


def choose_rates(rows: Iterable[str], epochs: int, done: Mapping[tuple[str, int], Run]) -> dict[str, float]:
    """Each row's best learning rate on validation, from short runs that are annealed like the long ones."""
    pilots = {row: [Run(row, 0, epochs, rate, teachers_of(row, 0, done)) for rate in RATES] for row in rows}
    make_all(run for runs in pilots.values() for run in runs)
    return {
        row: max(runs, key=lambda run: statistics.mean(run.results()["validation"].values())).rate
        for row, runs in pilots.items()
    }


def teachers_of(row: str, seed: int, done: Mapping[tuple[str, int], Run]) -> tuple[Run, ...]:
    return tuple(done[single, seed] for single in SINGLE) if ROWS[row].taught else ()


def make_all(runs: Iterable[Run]) -> None:
    """Those that have no results yet, two at a time."""
    missing = [run for run in runs if not run.file(".json").exists()]
    spawn = get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(2, spawn, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(train, missing))


def print_table(done: Mapping[tuple[str, int], Run], seeds: Sequence[int]) -> None:
    print("| network | rate | left | right | theirs: left | theirs: right | CPU minutes |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for title, rows in TITLES.items():
        if not all((row, seeds[0]) in done for row in rows):
            continue
        runs = [done[row, seed] for row in rows for seed in seeds]
        results = [run.results() for run in runs]
        theirs = {task: value for row in rows for task, value in ROWS[row].theirs.items()}
        cells = [", ".join(dict.fromkeys(str(run.rate) for run in runs))]
        cells += [spread([one["test"][task] for one in results if task in one["test"]]) for task in TASKS]
        cells += [f"{theirs[task]:.2f}" if task in theirs else "" for task in TASKS]
        cells += [f"{statistics.mean(one['cpu_minutes'] for one in results) * len(rows):.0f}"]
        print(f"| {title} | {' | '.join(cells)} |")


def spread(values: list[float]) -> str:
    """Mean, and the standard deviation where there are several values."""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


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


def train(run: Run) -> None:
    """Train a row, keep the epoch that is best on validation, and write its weights and results."""
    start = time.process_time()
    row = ROWS[run.row]
    training, validation, test = load()
    torch.manual_seed(run.seed)
    network = Network(row.tasks).to(memory_format=torch.channels_last)
    teachers = {
        task: Teacher(task, single, training.images, row)
        for single in run.teachers
        for task in ROWS[single.row].tasks
    }
    rule = make_rule(row.rule, row.tasks, **row.options)
    everything = nn.ModuleList([network, rule, *(teacher.hint for teacher in teachers.values())])
    optimizer = (
        muon_of(network.trunk, everything, run.rate)
        if row.muon
        else torch.optim.SGD(everything.parameters(), lr=run.rate, momentum=MOMENTUM)
    )
    # Theirs is halved every 30 epochs of 100; a shorter run keeps the proportions.
    schedule = torch.optim.lr_scheduler.StepLR(
        optimizer, step_size=max(1, round(0.3 * run.epochs)), gamma=0.5
    )

    best: dict[str, Any] = {"mean": -1.0}
    step, steps = 0, run.epochs * -(-len(training.images) // BATCH)
    for epoch in range(1, run.epochs + 1):
        network.train()
        for rows in torch.randperm(len(training.images)).split(BATCH):
            heard = 1.0 if row.annealed is None else max(0, 1 - step / steps * run.epochs / row.annealed)
            step += 1
            shared = Shared(network.trunk(normalised(training.images[rows])), row.tasks)
            losses = {}
            for task in row.tasks:
                logits = network.heads[task](shared[task])
                losses[task] = F.cross_entropy(logits, training.labels[task][rows])
                if task in teachers:
                    losses[task] = losses[task] + heard * teachers[task].loss(logits, shared[task], rows)
            weights = rule.backward(losses, shared)
            optimizer.step()
            optimizer.zero_grad()
        schedule.step()
        scores = accuracies(network, validation)
        if statistics.mean(scores.values()) > best["mean"]:
            best = {"mean": statistics.mean(scores.values()), "epoch": epoch, "validation": scores}
            state = deepcopy(network.state_dict())
        shown = " ".join(f"{task} {scores[task]:.2f} (weight {weights[task]:.2f})" for task in row.tasks)
        at = f"{run.row} {run.seed}, rate {run.rate}: epoch {epoch}/{run.epochs}"
        minutes = (time.process_time() - start) / 60
        print(f"{at}, {shown}, {minutes:.1f} min", file=sys.stderr, flush=True)

    network.load_state_dict(state)
    results = {
        "test": accuracies(network, test),
        "validation": best["validation"],
        "best_epoch": best["epoch"],
        "cpu_minutes": minutes,
    }
    RUNS.mkdir(parents=True, exist_ok=True)
    write(run.file(".pt"), lambda path: torch.save(state, path))
    write(run.file(".json"), lambda path: path.write_text(json.dumps(results, indent=2)))


def muon_of(trunk: nn.Sequential, everything: nn.Module, rate: float) -> Muon:
    """Muon for the hidden matrices of the trunk, NAdamW for all else, as a recipe's default parts them."""
    hidden = [layer.weight for layer in trunk[1:] if isinstance(layer, (nn.Conv2d, nn.Linear))]
    others = {id(parameter) for parameter in hidden}
    rest = [parameter for parameter in everything.parameters() if id(parameter) not in others]
    groups: list[dict[str, Any]] = [{"params": hidden}, {"params": rest, "use_fallback": True}]
    return Muon(groups, lr=rate, momentum=0.95, betas=(0.9, 0.999))


class Teacher:
    """A task's single-task network, asked once about every training picture (there is no augmentation)."""

    def __init__(self, task: str, single: Run, images: Tensor, row: Row) -> None:
        self.row = row
        network = Network([task]).to(memory_format=torch.channels_last)
        network.load_state_dict(torch.load(single.file(".pt"), weights_only=True))
        self.hidden, logits = answers(network, images)
        self.logits = logits[task]
        shape = FeatureShape(WIDTH, size=None)
        self.hint = Hint(shape, shape)
        self.hint.calibrate([self.hidden])

    def loss(self, logits: Tensor, shared: Tensor, rows: Tensor) -> Tensor:
        """Soft targets and hint, means over the rows, with the weights of the table's row."""
        loss = self.row.soft * soft_divergence(logits, self.logits[rows], self.row.temperature).mean()
        if self.row.hint:
            loss = loss + self.row.hint * self.hint(shared, self.hidden[rows]).mean()
        return loss


def write(path: Path, save: Callable[[Path], Any]) -> None:
    """A file is there whole or not at all: its presence means that the row is finished."""
    aside = path.with_name(f"{path.name}.part")
    save(aside)
    aside.replace(path)


if __name__ == "__main__":
    main()
