"""The bench of shapes: the keys of each shape, trees whose tasks change places, the wide trunk, the table."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import merge_scores
import merge_sets
import merges
import shapes

from distill_mtl.recipe import load_recipe
from distill_mtl.training.branching.search import TaskTree

TREE = TaskTree(((("a", "b", "c"),), (("a",), ("b", "c"))), 1.5, 0.0)
TREES = shapes.Trees(
    auto={"layer4": [["depth"], ["normals", "segment", "attributes", "objects"]]},
    worst={"layer4": [["objects"], ["depth", "normals", "segment", "attributes"]]},
    points=[1.0, 2.0],
    size=1.2,
    wide={"channels": [36, 52, 52, 108]},
)


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_the_keys_of_a_shape_fit_the_recipe(shape, tmp_path, monkeypatch):
    monkeypatch.chdir(shapes.ROOT)
    recipe = merge_sets.recipe_of(merge_sets.MERGES["scenes"], tmp_path, seed=0, steps=1)
    keys = shapes.SHAPES[shape]
    sets = keys(TREES) if callable(keys) else keys
    student = load_recipe(merge_sets.write_recipe(recipe, tmp_path), list(sets)).student
    if shape == "tree-auto":
        assert student.branch == TREES.auto
    if shape == "wide":
        assert student.args == TREES.wide


def test_tasks_change_places_in_a_tree_of_the_same_form():
    assert set(shapes.exchanged(TREE, "abc")) == {
        ((("a", "b", "c"),), (("a",), ("b", "c"))),
        ((("a", "b", "c"),), (("a", "c"), ("b",))),
        ((("a", "b", "c"),), (("a", "b"), ("c",))),
    }


def test_the_wide_trunk_is_nearest_in_flops():
    def flops(args):
        return sum(count**2 for count in args["channels"])

    goal = 2 * sum(count**2 for count in shapes.CHANNELS)
    wide = shapes.widened(flops, goal)
    assert abs(flops(wide) / goal - 1) < 0.05
    assert all(count % 4 == 0 for count in wide["channels"])


def test_the_table_has_leads_and_costs_of_what_was_run(tmp_path):
    assert shapes.table_lines("short", tmp_path) == ["no shape was run yet"]
    for shape, score, flops in (("ours", 50.0, 10e6), ("tree-auto", 53.0, 12e6)):
        write(tmp_path, shape, 0, score, flops)
    write(tmp_path, "teachers", merge_scores.FIXED, 52.0)
    lines = shapes.table_lines("short", tmp_path)
    cells = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in lines if line.startswith("| ")}
    assert cells["tree-auto"][3:5] == ["+1.00 ± 0.00", "+3.00 ± 0.00"]
    assert cells["trunk"][3:5] == ["-2.00 ± 0.00", ""]
    assert cells["tree-auto"][5:10] == ["0.3000", "12.0", "2,000 k", "3.0", "0.50"]
    assert cells["teachers"][6:10] == ["50.0", "9,000 k", "6.0", "1.00"]


def write(work: Path, entrant: str, seed: int, score: float, flops: float = 0.0) -> None:
    """A finished run of one task."""
    folder = merges.Run("scenes", "short", entrant, seed).folder(work)
    (folder / "run").mkdir(parents=True)
    task = {"score": score, "sign": 1, "metric": "accuracy", "rows": 3}
    scores = {"tasks": {"a": task}, "cpu_seconds": 1.0, "commit": "abc"}
    (folder / merge_scores.SCORES).write_text(json.dumps(scores))
    np.savez(folder / merge_scores.REPLICATES, a=np.full(merge_scores.RESAMPLES, score))
    if entrant == "teachers":
        return
    student = {"flops": flops, "parameters": 2e6, "latency_ms": 3.0}
    teachers = {"flops": 50e6, "parameters": 9e6, "latency_ms": 6.0}
    cost = {"student": student, "teachers": teachers}
    (folder / "run" / "results.json").write_text(json.dumps({"cost": cost}))
    steps = [{"step": step, "tasks": {"a": {"hint": hint}}} for step, hint in ((90, 9.0), (100, 0.3))]
    (folder / "run" / "metrics.jsonl").write_text("\n".join(map(json.dumps, steps)))
