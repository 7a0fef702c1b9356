"""What the tasks' gradients at the cut look like in a run, and what balancing rules make of them:

    python benchmarks/gradients.py recipes/multidigits.yaml --steps 300
    python benchmarks/gradients.py --run runs/multidigits

Trains the recipe once for each variant with a line of metrics.jsonl for every step (kept in runs/gradients/, not
repeated), or reads a run that is there. A table for each run, a line for each fifth of it: the length of each task's
own gradient, the cosines, each task's share of the trunk's step, the step's length beside the plain sum's, and the
noise of the weights that `mgda_ub` would choose there, from one batch and from a running mean. The noise is the
standard deviation of the logarithm of a weight from step to step, its trend left out: 0.1 is about 10 %.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from quickstart_runs import finished, folder_name

from distill_mtl.balance import MGDAUB

RUNS = Path("runs/gradients")
VARIANTS = ("balance=mgda_ub", "balance=uniform", "balance=uniform tasks.*.weights.hint=0")
PARTS = 5


@dataclass
class Step:
    """One logged step: Gramian [T, T] of the tasks' own gradients at the cut, and the weights [T] that they got."""

    number: int
    gramian: np.ndarray
    weights: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", nargs="?", default="recipes/multidigits.yaml")
    parser.add_argument(
        "--run", type=Path, action="append", default=[], help="read this run; nothing is trained"
    )
    parser.add_argument(
        "--variant", action="append", metavar="KEY=VALUE ...", help="changes, * for every task"
    )
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for every variant")
    arguments = parser.parse_args()
    runs = {str(run): run for run in arguments.run} or {
        variant: trained(arguments.recipe, [*variant.split(), *arguments.set], arguments.steps)
        for variant in arguments.variant or VARIANTS
    }
    for name, run in runs.items():
        print(f"\n### {name}\n")
        print_table(*read(run / "metrics.jsonl"))


def trained(recipe: str, changes: Sequence[str], steps: int) -> Path:
    """The folder of a run with one line for each step."""
    tasks = tasks_of(recipe)
    listed = [
        change.replace("*", task) for change in changes for task in (tasks if "*" in change else tasks[:1])
    ]
    out = RUNS / folder_name(f"{Path(recipe).stem}-{steps}-{'-'.join(changes)}")
    overrides = [*listed, f"training.steps={steps}", "training.epochs=null", "training.log_every=1"]
    finished(out, ["distill.py", recipe, *(f"--set={change}" for change in overrides)])
    return out


def tasks_of(recipe: str) -> list[str]:
    from distill_mtl import load_recipe

    return list(load_recipe(Path(recipe)).tasks)


def read(metrics: Path) -> tuple[list[str], list[Step]]:
    """The tasks, and the steps of a log in which all of them have a gradient and a weight."""
    steps, tasks = [], list[str]()
    for line in map(json.loads, metrics.read_text().splitlines()):
        tasks = tasks or list(line.get("lengths") or {})
        weights = np.array([line["tasks"].get(task, {}).get("weight") or 0.0 for task in tasks])
        if not tasks or set(line.get("lengths") or {}) != set(tasks) or not (weights > 0).all():
            continue
        norms = np.array([line["lengths"][task] for task in tasks]) / weights
        cosines = np.eye(len(tasks))
        for (i, one), (j, other) in combinations(enumerate(tasks), 2):
            cosine = line["cosines"].get(f"{one}/{other}", line["cosines"].get(f"{other}/{one}", 0.0))
            cosines[i, j] = cosines[j, i] = cosine
        steps.append(Step(line["step"], cosines * norms * norms[:, None], weights))
    if not steps:
        raise SystemExit(f"{metrics}: no step has a gradient and a weight above 0 of every task")
    return tasks, steps


def print_table(tasks: list[str], steps: list[Step]) -> None:
    logarithms = noise(tasks, steps)
    names = "/".join(tasks)
    columns = (
        "steps",
        f"norm {names}",
        "cosine (min … max over steps)",
        f"share {names}",
        "step / plain sum",
    )
    print(f"| {' | '.join(columns)} | noise of λ |")
    print("|---|---|---|---|---:|---|")
    for part in np.array_split(np.arange(len(steps)), min(PARTS, len(steps))):
        here = [steps[at] for at in part]
        cells = [
            f"{here[0].number:,}–{here[-1].number:,}",
            figures(np.mean([norms(step) for step in here], axis=0), "{:.3g}"),
            cosine_of(here),
            figures(np.mean([share(step) for step in here], axis=0), "{:.2f}"),
            f"{np.mean([length(step) for step in here]):.2f}",
            figures(spread(logarithms[part]), "{:.2f}"),
        ]
        print(f"| {' | '.join(cells)} |")


def norms(step: Step) -> np.ndarray:
    return np.sqrt(step.gramian.diagonal())


def share(step: Step) -> np.ndarray:
    """[T], of the lengths of the weighted gradients."""
    parts = step.weights * norms(step)
    return np.asarray(parts / parts.sum())


def length(step: Step) -> float:
    """Of the balanced direction, in lengths of the plain sum of the tasks' own gradients."""
    plain = step.gramian.sum()
    return (
        float(np.sqrt(max(0.0, step.weights @ step.gramian @ step.weights) / plain))
        if plain > 0
        else float("nan")
    )


def cosine_of(steps: list[Step]) -> str:
    """Mean over pairs, and the extreme steps."""
    found = np.array([mean_cosine(step) for step in steps])
    return f"{found.mean():+.2f} ({found.min():+.2f} … {found.max():+.2f})"


def mean_cosine(step: Step) -> float:
    lengths, count = norms(step), len(step.weights)
    cosines = step.gramian / lengths / lengths[:, None]
    return float((cosines.sum() - count) / max(1, count * (count - 1)))


def noise(tasks: list[str], steps: list[Step]) -> np.ndarray:
    """[N, T], logarithms of the weights that `mgda_ub` would choose in each step."""
    rule = MGDAUB(tasks)
    losses = dict.fromkeys(tasks, torch.ones(()))
    chosen = (rule.weigh(torch.from_numpy(step.gramian), losses) for step in steps)
    return np.array([[np.log(max(weight, 1e-6)) for weight in weights.values()] for weights in chosen])


def spread(logarithms: np.ndarray) -> np.ndarray:
    """[T], of [N, T]: the standard deviation without the trend."""
    return np.asarray(np.diff(logarithms, axis=0).std(axis=0) / np.sqrt(2))


def figures(values: np.ndarray, form: str) -> str:
    return "/".join(form.format(value) for value in values)


if __name__ == "__main__":
    main()
