"""Every balancing rule on the quickstart at a quarter of its length, against the single-task teachers:

    python benchmarks/balance_rules.py

Six rules with three seeds (mean and spread of the delta in points), the rest with one. Runs are processes of
one thread, two at a time, kept in runs/rules/ and not repeated.
"""

import argparse
import statistics
from pathlib import Path

from quickstart_runs import figure, folder_name, make_all, results_of

TASKS = ("left", "right", "segment")
RUNS = Path("runs/rules")
MGDA_UB = "{{method: mgda_ub, options: {{normalize: {}}}}}"
THREE_SEEDS = {
    "uniform": "uniform",
    "uncertainty": "uncertainty",
    "gradnorm": "gradnorm",
    "mgda_ub": MGDA_UB.format("none"),
    "mgda_ub, normalize: l2": MGDA_UB.format("l2"),
    "mgda_ub, normalize: loss+": MGDA_UB.format("loss+"),
}
ONE_SEED = {
    "mgda_ub, normalize: loss": MGDA_UB.format("loss"),
    "mgda_ub, l2, scale: 1": "{method: mgda_ub, options: {normalize: l2, scale: 1}}",
    "mgda, normalize: l2": "{method: mgda, options: {normalize: l2}}",
    "geometric": "geometric",
    "fixed, segment 3": "{method: fixed, options: {weights: {left: 1, right: 1, segment: 3}}}",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=375)
    arguments = parser.parse_args()
    pairs = [(rule, seed) for rule in THREE_SEEDS for seed in range(3)] + [(rule, 0) for rule in ONE_SEED]
    make_all(job(*pair, arguments.steps) for pair in pairs)
    print("| rule | seeds | left | right | segment | mean delta |\n|---|---:|---:|---:|---:|---:|")
    for rule in (*THREE_SEEDS, *ONE_SEED):
        seeds = range(3) if rule in THREE_SEEDS else range(1)
        runs = [results_of(*job(rule, seed, arguments.steps)) for seed in seeds]
        deltas = [[results[task]["delta"] for task in TASKS] for results in runs]
        columns = [*zip(*deltas, strict=True), [statistics.mean(row) for row in deltas]]
        print(f"| {rule} | {len(seeds)} | {' | '.join(figure(column) for column in columns)} |")


def job(rule: str, seed: int, steps: int) -> tuple[Path, list[str]]:
    """The folder of a run, and what it changes in the recipe."""
    changes = [f"balance={(THREE_SEEDS | ONE_SEED)[rule]}", f"training.steps={steps}", f"seed={seed}"]
    return RUNS / f"{folder_name(rule)}-{seed}", changes


if __name__ == "__main__":
    main()
