from pathlib import Path

import forked
import pytest
import quickstart
import toy_world
from rich.console import Console

from distill_mtl import distill, load_recipe

VOICES = (
    "tasks.hue.teacher={student: frozen, every: 2}",
    "tasks.hue.classes=3",
    "tasks.shape.gate={confidence: 0.95}",
    "training.asynchronous={trunk: 20, heads: {hue: 16, shape: 30}}",
    "training.steps=10",
    "training.log_every=1",
    # While hints have no weight their adapters must wait, whatever DistributedDataParallel fills in.
    "schedule=[{until: 3}, {until: 7, weights: {hint: 0}}, {}]",
    "optimizer.warmup=0",
)


def test_two_processes_equal_one_with_every_provider_at_once(tmp_path: Path) -> None:
    recipe = toy_world.build(tmp_path)
    one, two = tmp_path / "one", tmp_path / "two"
    distill(load_recipe(recipe, VOICES), out=one, console=Console(quiet=True))
    options = [f"--set={change}" for change in VOICES]
    for ended in forked.run_two("distill", recipe, "--out", two, *options):
        assert ended.status == 0, ended.text
    for ours, theirs in zip(quickstart.metrics(one), quickstart.metrics(two), strict=True):
        for task, terms in ours["tasks"].items():
            assert terms == pytest.approx(theirs["tasks"][task], rel=1e-3, abs=1e-4), (ours["step"], task)
    last = quickstart.metrics(two)[-1]["tasks"]
    assert "soft_targets" in last["hue"]
    assert any(0 < line["tasks"]["shape"]["gated"] < 1 for line in quickstart.metrics(two))
    ours, theirs = quickstart.weights(one), quickstart.weights(two)
    for name, weight in ours.items():
        assert (weight - theirs[name]).abs().max() <= 1e-3 * max(1.0, float(weight.abs().max())), name
