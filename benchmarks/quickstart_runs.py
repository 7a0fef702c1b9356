"""Runs of the quickstart for tables over many of them: each is made once, and kept."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

RECIPE = "recipes/multidigits.yaml"


def make_all(jobs: Iterable[tuple[Path, Sequence[str]]]) -> None:
    """Make the runs, two at a time with a thread each: the folder and the changes of each, as in `results_of`."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda job: results_of(*job), jobs))


def results_of(out: Path, changes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Results by task of the quickstart with changes, in `out`; what the run prints goes to a log beside it."""
    command = ["distill.py", RECIPE, *(f"--set={change}" for change in (*changes, "acceptance=100"))]
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.with_name(f"{out.name}.log").open("a") as log:
        results: dict[str, dict[str, Any]] = finished(
            out, command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=subprocess.STDOUT
        )["tasks"]
    return results


def finished(out: Path, command: Sequence[str], **process: Any) -> dict[str, Any]:
    """results.json of the run in `out`, which is made, gone on with, or left alone where it is finished.

    Args:
        out: its folder.
        command: what Python is to run.
        process: further arguments of `subprocess.run`.
    """
    if not (out / "results.json").exists():
        again = ["--resume"] if out.exists() else []
        subprocess.run([sys.executable, *command, "--out", str(out), *again], check=True, **process)
    results: dict[str, Any] = json.loads((out / "results.json").read_text())
    return results


def folder_name(text: str) -> str:
    """The text with nothing in it but letters, digits and `-`."""
    return "".join(letter if letter.isalnum() else "-" for letter in text)


def figure(values: Sequence[float]) -> str:
    """Mean, and the standard deviation where there are several values."""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):+.2f}{spread}"
