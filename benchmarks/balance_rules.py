"""Every balancing rule on the quickstart at a quarter of its length, against the single-task teachers:

    python benchmarks/balance_rules.py

Six rules with three seeds (mean and spread of the delta in points), the rest with one. Runs are processes of
one thread, two at a time, kept in runs/rules/ and skipped where they are finished.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

RECIPE = "recipes/multidigits.yaml"
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
    jobs = [(rule, seed) for rule in THREE_SEEDS for seed in range(3)] + [(rule, 0) for rule in ONE_SEED]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda job: run(*job, arguments.steps), jobs))
    print("| rule | seeds | left | right | segment | mean delta |\n|---|---:|---:|---:|---:|---:|")
    for rule in (*THREE_SEEDS, *ONE_SEED):
        seeds = range(3) if rule in THREE_SEEDS else range(1)
        deltas = [list(run(rule, seed, arguments.steps).values()) for seed in seeds]
        columns = [*zip(*deltas, strict=True), [statistics.mean(row) for row in deltas]]
        print(f"| {rule} | {len(seeds)} | {' | '.join(figure(column) for column in columns)} |")


def run(rule: str, seed: int, steps: int) -> dict[str, float]:
    """Delta in points by task of one run, made if it is not there."""
    name = "".join(letter if letter.isalnum() else "-" for letter in rule)
    out = RUNS / f"{name}-{seed}"
    if not (out / "results.json").exists():
        balance = (THREE_SEEDS | ONE_SEED)[rule]
        changes = (f"balance={balance}", f"training.steps={steps}", f"seed={seed}", "acceptance=100")
        command = [
            sys.executable,
            "distill.py",
            RECIPE,
            "--out",
            str(out),
            *(f"--set={change}" for change in changes),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        out.parent.mkdir(parents=True, exist_ok=True)
        with (RUNS / f"{name}-{seed}.log").open("w") as log:
            subprocess.run(
                [*command, *(["--resume"] if out.exists() else [])], env=environment, stdout=log, check=True
            )
    results = json.loads((out / "results.json").read_text())
    return {task: results["tasks"][task]["delta"] for task in TASKS}


def figure(values: list[float]) -> str:
    """Mean, and the standard deviation where there are several values."""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):+.2f}{spread}"


if __name__ == "__main__":
    main()
