"""Sources of targets for missing labels, compared on the quickstart at a quarter of its length.

    python benchmarks/missing_labels.py [--seeds 3] [--figure docs/images/missing-labels.svg]

With all labels and with 100 labels per task; mean and standard deviation over seeds of the difference to the
single-task teachers in points. Runs are processes of one thread, two at a time, kept in runs/missing/ and
not repeated. The figure needs the extra `bench`.
"""

import argparse
import statistics
from pathlib import Path

from quickstart_runs import figure, folder_name, make_all, results_of

TASKS = {"left": 10, "right": 10, "segment": 4}
RUNS = Path("runs/missing")
LABELS_ONLY = ["training.teachers_on=none", "balance=auto"]
ALTERNATE = "training.stream=alternate"


def each(change: str) -> list[str]:
    """The change for every task."""
    return [f"tasks.{task}.{change}" for task in TASKS]


def own(section: str) -> list[str]:
    """The student as the teacher of every task; without a teacher's file the recipe says the classes."""
    return [
        change
        for task, classes in TASKS.items()
        for change in (f"tasks.{task}.teacher={section}", f"tasks.{task}.classes={classes}")
    ]


SOURCES = {
    "labels only, alternating": [*LABELS_ONLY, ALTERNATE],
    "labels only, alternating, asynchronous": [
        *LABELS_ONLY,
        ALTERNATE,
        "training.asynchronous={trunk: 384, heads: 128}",
    ],
    "labels only, mixed": LABELS_ONLY,
    "self, frozen, alternating": [*own("{student: frozen, every: 30}"), ALTERNATE],
    "teachers, no hints": each("hints=[]"),
    "teachers, hints at 0.1 (default)": [],
    "teachers, hints at 0.3": each("weights.hint=0.3"),
    "teachers, hints at 1": each("weights.hint=1"),
    "teachers on all rows, hints at 1": ["training.teachers_on=all", *each("weights.hint=1")],
    "teachers, staged hints at 1": ["schedule=fitnets", *each("weights.hint=1")],
    "teachers, hints at 1, gated at entropy 0.7": [*each("gate={entropy: 0.7}"), *each("weights.hint=1")],
}
LABELS = ("all labels", "100 labels a task")


def limits(source: str, labels: str) -> list[str]:
    """Changes that hide all but 100 labels of each task; without teachers the other rows are left out."""
    if labels == LABELS[0]:
        return []
    share = ", share: 1" if source.startswith("labels only") else ""
    return each(f"data.limit={{rows: 100{share}}}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=375)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    seeds = range(arguments.seeds)
    make_all(
        job(source, labels, seed, arguments.steps)
        for seed in seeds
        for labels in LABELS
        for source in SOURCES
    )
    # A run without teachers has no comparison of its own.
    default = results_of(*job("teachers, no hints", LABELS[0], 0, arguments.steps))
    theirs = {task: default[task]["teacher"] for task in TASKS}
    means: dict[str, list[list[float]]] = {}
    for labels in LABELS:
        print(f"\n| {labels} | {' | '.join(TASKS)} | mean delta |\n|---|{'---:|' * (len(TASKS) + 1)}")
        for source in SOURCES:
            results = [results_of(*job(source, labels, seed, arguments.steps)) for seed in seeds]
            deltas = [[result[task]["student"] - theirs[task] for task in TASKS] for result in results]
            averages = [statistics.mean(row) for row in deltas]
            means.setdefault(source, []).append(averages)
            columns = [*zip(*deltas, strict=True), averages]
            print(f"| {source} | {' | '.join(figure(column) for column in columns)} |")
    if arguments.figure is not None:
        draw(means, arguments.figure)


def job(source: str, labels: str, seed: int, steps: int) -> tuple[Path, list[str]]:
    """The folder of a run, and what it changes in the recipe."""
    changes = [*SOURCES[source], *limits(source, labels), f"training.steps={steps}", f"seed={seed}"]
    return RUNS / folder_name(f"{source}-{labels}-{seed}"), changes


def draw(means: dict[str, list[list[float]]], path: Path) -> None:
    """A bar for every source, at both amounts of labels."""
    from matplotlib import pyplot

    axes = pyplot.figure(figsize=(8, 5), layout="constrained").subplots(1, len(LABELS), sharey=True)
    for place, (labels, axis) in enumerate(zip(LABELS, axes, strict=True)):
        for row, (_, by_labels) in enumerate(means.items()):
            values = by_labels[place]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            axis.barh(row, statistics.mean(values), xerr=spread, color="#4c72b0")
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_title(labels)
        axis.set_xlabel("points beside the teachers")
        axis.set_yticks(range(len(means)), list(means))
    axes[0].invert_yaxis()  # shared with the other
    path.parent.mkdir(parents=True, exist_ok=True)
    pyplot.savefig(path)


if __name__ == "__main__":
    main()
