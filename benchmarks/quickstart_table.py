"""The quickstart beside its baselines, as the README shows it:

    python benchmarks/quickstart_table.py

Rows: the teachers; single-task networks of the student's trunk, each trained on its own labels for as many
steps as the student; one student from labels only; one distilled under `uniform`; one whose teachers give
targets on labelled rows too; and the quickstart itself. Each row is a run in its own process, kept in
runs/table/ and not repeated.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from quickstart_runs import RECIPE, finished

TASKS = ("left", "right", "segment")
RUNS = Path("runs/table")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, help="length of every run; default: the quickstart's own")
    arguments = parser.parse_args()
    length = [] if arguments.steps is None else [f"training.steps={arguments.steps}"]

    quickstart = distill("quickstart", *length)
    rows = {
        "three teachers": {task: result["teacher"] for task, result in quickstart["tasks"].items()},
        "three single-task networks": {task: single(task, length) for task in TASKS},
        "student, labels only": scores(distill("labels-only", *length, "training.teachers_on=none")),
        "student, distilled, `uniform`": scores(distill("uniform", *length, "balance=uniform")),
        "student, teachers on all rows": scores(distill("all-rows", *length, "training.teachers_on=all")),
        "**student, the quickstart**": scores(quickstart),
    }
    print("| network | left (accuracy) | right (accuracy) | segment (mIoU) | parameters | MFLOPs |")
    print("|---|---:|---:|---:|---:|---:|")
    student, teachers = quickstart["cost"]["student"], quickstart["cost"]["teachers"]
    for name, row in rows.items():
        cost = teachers if name.startswith("three") else student
        cells = " | ".join(f"{row[task]:.2f}" for task in TASKS)
        print(f"| {name} | {cells} | {cost['parameters']:,} | {cost['flops'] / 1e6:.1f} |")


def distill(name: str, *overrides: str) -> dict[str, Any]:
    """results.json of the quickstart's recipe with changes."""
    changes = [f"--set={override}" for override in (*overrides, "acceptance=100")]
    return finished(RUNS / name, ["distill.py", RECIPE, *changes])


def single(task: str, length: list[str]) -> float:
    """Score of a network of one task, trained on its labels alone with the quickstart's schedule."""
    changes = length or [f"training.steps={quickstart_steps()}"]
    overrides = [f"--set={change}" for change in (*changes, "training.epochs=null", "optimizer.lr=3e-3")]
    recipe = f"recipes/teachers/{task}.yaml"
    return scores(finished(RUNS / f"single-{task}", ["distill.py", recipe, *overrides]))[task]


def quickstart_steps() -> int:
    """Steps of the quickstart, as its finished run says."""
    steps: int = json.loads((RUNS / "quickstart" / "results.json").read_text())["steps"]
    return steps


def scores(results: dict[str, Any]) -> dict[str, float]:
    return {task: result["student"] for task, result in results["tasks"].items()}


if __name__ == "__main__":
    main()
