"""Run folders as a run leaves them, written by hand, so that a report can be tested without training."""

import copy
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from distill_mtl.evaluation.examples import Example
from distill_mtl.evaluation.result import FORMAT, VERSION
from distill_mtl.report.pictures import write_gallery
from distill_mtl.tasks.base import Legend, Shown

STEPS = 60


def task(**changes: Any) -> dict[str, Any]:
    """An entry of results.json; a classification half a point behind its teacher and non-inferior."""
    return {
        "kind": "classification",
        "metric": "accuracy",
        "higher_is_better": True,
        "rows": 500,
        "groups": 500,
        "teacher": 90.0,
        "student": 89.5,
        "delta": -0.5,
        "ci95": [-0.9, 0.2],
        "agreement": 0.95,
        "in_points": True,
        "margin": 1.0,
        "verdict": "non-inferior",
        "rows_to_decide": None,
        "mcnemar": {"student_only": 4, "teacher_only": 7, "p": 0.55, "test": "clustered"},
        "ece": {"student": 2.5, "teacher": 1.5},
        "classes": [
            {"name": "cat", "teacher": 91.0, "student": 92.0, "delta": 1.0},
            {"name": "owl <b>", "teacher": 89.0, "student": 85.0, "delta": -4.0},
        ],
        "disagreements": [
            {"key": "pets/000/00007", "teacher": "cat", "student": "owl <b>", "label": "cat", "loss": 3.25}
        ],
        **changes,
    }


def task_with_slices(**changes: Any) -> dict[str, Any]:
    """A task that keeps its margin, and loses at night; with a slice that decides and one of few rows."""
    entry = {"rows": 90, "groups": 90, "teacher": 90.0, "p": 0.2, "p_holm": 0.6}
    night = {"name": "light=night <b>", "student": 81.5, "delta": -8.5, "ci95": [-12.0, -5.0]}
    rain = {"name": "weather=rain", "student": 88.0, "delta": -2.0, "ci95": [-4.5, 0.5]}
    slices = [
        {**entry, **night, "p": 1e-5, "p_holm": 3e-5},
        {**entry, **rain, "margin": 5.0, "verdict": "non-inferior"},
        {**entry, "name": "light=day", "student": 90.4, "delta": 0.4, "ci95": [-0.2, 0.9]},
        {"name": "light=dusk", "rows": 7, "groups": 7},
    ]
    return task(slices=slices, **changes)


def dense_task(**changes: Any) -> dict[str, Any]:
    """A depth scored in metres, where less is better."""
    return task(
        **{
            "kind": "depth",
            "metric": "rmse",
            "higher_is_better": False,
            "teacher": 0.5,
            "student": 0.48,
            "delta": 0.02,
            "ci95": [0.01, 0.03],
            "in_points": False,
            "margin": 0.05,
            "mcnemar": None,
            "ece": None,
            "classes": None,
            **changes,
        }
    )


def cost(**changes: Any) -> dict[str, Any]:
    return {
        "parameters": 400_000,
        "flops": 11_000_000,
        "bytes": 1_600_000,
        "latency_ms": 1.5,
        "batch": 64,
        "rows_per_second": 2000.0,
        "peak_memory": 9_000_000,
        **changes,
    }


def results(tasks: dict[str, dict[str, Any]] | None = None, **changes: Any) -> dict[str, Any]:
    """A whole results.json: `breed` and `range` kept within their margins."""
    tasks = tasks or {"breed": task(), "range": dense_task()}
    double = {key: 2 * value for key, value in cost().items() if key not in ("batch", "rows_per_second")}
    share = {"parameters": 1000, "flops": 2000, "parameters_share": 0.0025, "flops_share": 0.0002}
    return {
        "format": FORMAT,
        "version": VERSION,
        "tasks": tasks,
        "cost": {
            "student": cost(),
            "teachers": cost(**double, rows_per_second=1000.0),
            "each": {name: cost() for name in tasks},
            "heads": {name: dict(share) for name in tasks},
            "machine": "a CPU, 1 thread, torch 2",
        },
        "cross_domain": {"breed": {"far": {"rows": 100, "agreement": 0.71}}},
        "baselines": {
            "labels": {
                "kind": "labels_only",
                "tasks": {"breed": {"score": 80.0, "delta": -10.0, "ci95": [-12.0, -8.0]}},
            }
        },
        "split": "test",
        "acceptance": {
            "rule": "interval",
            "margin": {name: entry["margin"] for name, entry in tasks.items()},
            "slices": {
                one["name"]: {name: one["margin"]}
                for name, entry in tasks.items()
                for one in entry.get("slices", ())
                if "margin" in one
            },
        },
        "hashed": [],
        "accepted": True,
        "steps": STEPS,
        "seconds": 75.0,
        **copy.deepcopy(changes),
    }


def results_of_a_tree() -> dict[str, Any]:
    """Five tasks, of which four part twice."""
    shape: dict[str, tuple[str | None, str, list[str]]] = {
        "root": (None, "conv1", ["depth", "normals", "segment", "objects", "attributes_of_scenes"]),
        "depth+normals": ("root", "layer3", ["depth", "normals"]),
        "segment+objects": ("root", "layer3", ["segment", "objects"]),
        "attributes_of_scenes": ("root", "layer3", ["attributes_of_scenes"]),
        **{each: ("depth+normals", "layer4", [each]) for each in ("depth", "normals")},
        **{each: ("segment+objects", "layer4", [each]) for each in ("segment", "objects")},
    }
    figures = {"parameters": 8_390_000, "flops": 411_000_000, "parameters_share": 0.2, "flops_share": 0.1}
    written = results({each: dense_task() if each == "depth" else task() for each in shape["root"][2]})
    written["cost"]["nodes"] = {
        name: {**figures, "parent": parent, "begins": begins, "tasks": tasks, "latency_ms": 12.34}
        for name, (parent, begins, tasks) in shape.items()
    }
    return written


def metrics(tasks: list[str], scale: float = 1.0) -> str:
    """A log of STEPS lines."""
    lines = []
    for step in range(1, STEPS + 1):
        loss = scale * math.exp(-step / 30)
        terms = {"total": 1.1 * loss, "supervised": loss, "soft_targets": 0.09 * loss, "hint": 0.01 * loss}
        lines.append(
            {
                "step": step,
                "seconds": step / 10,
                "rows_per_second": 100.0,
                "lr": 0.001,
                "tasks": {name: {**terms, "weight": 1.0 / (number + 1)} for number, name in enumerate(tasks)},
                "cosines": {f"{a}/{b}": 0.1 - 0.2 * step / STEPS for a, b in pairwise(tasks)},
                "norm": loss,
                "harmed": 0.5 if step % 20 == 0 else None,
            }
        )
    return "".join(json.dumps(line) + "\n" for line in lines)


def write_run(
    folder: Path,
    content: dict[str, Any] | None = None,
    *,
    finished: bool = True,
    lr: float = 0.001,
    seed: int = 0,
    found_rate: bool = False,
) -> Path:
    """A run folder.

    Args:
        folder: a new one.
        content: of results.json; default `results()`.
        finished: False leaves it as a run that was interrupted.
        lr: of its recipe.
        seed: of its recipe.
        found_rate: the run found its rate by itself.
    """
    content = content or results()
    tasks = list(content["tasks"])
    folder.mkdir(parents=True)
    lines = [f"name: {folder.name}", f"seed: {seed}", "student: {model: test_resnet}", "tasks:"]
    lines += [f"  {name}: {{kind: {entry['kind']}}}" for name, entry in content["tasks"].items()]
    lines += [
        "data:",
        *(f"  near_{name}: {{shards: 'x.tar', labels: {{{name}: {{}}}}}}" for name in tasks),
        "  far: {shards: 'x.tar', labels: {}}",
        "balance: {method: auto}",
        f"optimizer: {{lr: {lr}}}",
        f"training: {{steps: {2 * STEPS if not finished else STEPS}}}",
    ]
    (folder / "recipe.resolved.yaml").write_text("\n".join(lines) + "\n")
    teacher = {"file": "/t/breed/model.safetensors", "sha256": "ab" * 32, "classes": ["cat", "owl"]}
    teacher |= {"input": {"size": [32, 32]}, "score": 91.0, "precision": "fp32"}
    (folder / "teachers.json").write_text(json.dumps(dict.fromkeys(tasks, teacher)))
    environment = {
        "began": "2026-01-01",
        "processes": 2,
        "balance": "balance: mgda_ub",
        "versions": {"torch": "2"},
    }
    if found_rate:
        environment["rate"] = {"said": f"lr: {lr} (auto)", "curve": []}
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "metrics.jsonl").write_text(metrics(tasks))
    if finished:
        (folder / "results.json").write_text(json.dumps(content))
        _write_pictures(folder / "examples", tasks)
    return folder


def write_seeds(folder: Path, *deltas: float, name: str = "seed", **recipe: Any) -> list[Path]:
    """Runs that differ by their seed alone, with these deltas of `breed`; rows swing them by 0.1 around each."""
    runs = []
    for seed, delta in enumerate(deltas):
        resampled = [delta + 0.1 * math.sin(number) for number in range(200)]
        verdict = "non-inferior" if delta - 0.2 > -1 else "inferior" if delta + 0.2 < -1 else "undecided"
        entry = task(delta=delta, student=90 + delta, ci95=[delta - 0.2, delta + 0.2], verdict=verdict)
        entry |= {"resampled": resampled, "drawn_from": "the rows"}
        runs.append(write_run(folder / f"{name}-{seed}", results({"breed": entry}), seed=seed, **recipe))
    return runs


def _write_pictures(folder: Path, tasks: list[str]) -> None:
    image, map_ = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    in_words = Example(
        "pets/000/00007",
        Shown(image),
        Shown(None, "cat"),
        Shown(None, "cat (90 %)"),
        Shown(None, "owl <b> 80 %"),
    )
    in_pictures = Example("range/000/00001", Shown(image), *[Shown(map_, "1 to 2")] * 3)
    write_gallery(
        folder,
        disagreements={tasks[0]: [in_words]},
        samples={tasks[-1]: [in_pictures]},
        legends={tasks[-1]: Legend({"no depth": (96, 96, 96)}, "Light is near.")},
    )
