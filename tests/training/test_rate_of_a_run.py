"""A run finds its rate, begins where it would have begun without the search, and resumes to the bit without another."""

import json
import shutil
from pathlib import Path

import forked
import pytest
import toy_world
import yaml
from quickstart import weights
from rich.console import Console

from distill_mtl import distill, load_recipe
from distill_mtl.training import find_rate

QUIET = Console(quiet=True)
STEPS = 6
pytestmark = pytest.mark.usefixtures("short_runs")


def few_steps() -> None:
    """In a process of its own: the few steps of `_few_steps_are_enough`."""
    find_rate.FEWEST, find_rate.SHARE = 3, 0.5


@pytest.fixture
def _few_steps_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find_rate, "FEWEST", 3)
    monkeypatch.setattr(find_rate, "SHARE", 0.5)


@pytest.mark.usefixtures("_few_steps_are_enough")
@pytest.mark.parametrize(("name", "precision"), [("sgd", "fp32"), ("muon", "bf16"), ("adamw", "fp32")])
def test_a_run_that_found_its_rate_repeats_and_resumes_to_the_bit(
    name: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = [
        f"optimizer.name={name}",
        f"training.precision={precision}",
        f"training.steps={STEPS}",
        "training.checkpoint_every=3",
    ]
    recipe, out = load_recipe(toy_world.build(tmp_path), changes), tmp_path / "run"
    assert recipe.optimizer.lr == "auto"
    distill(recipe, out=out, console=QUIET)
    whole = weights(out)
    resolved = yaml.safe_load((out / "recipe.resolved.yaml").read_text())
    rate = resolved["optimizer"]["lr"]
    assert isinstance(rate, float)
    note = json.loads((out / "environment.json").read_text())["rate"]
    assert f"lr: {rate:g} (auto: " in note["said"]
    assert len(note["curve"]) == 3

    monkeypatch.setattr("distill_mtl.jobs.distill.find_rate", None)  # nobody searches again
    distill(load_recipe(out / "recipe.resolved.yaml"), out=tmp_path / "again", console=QUIET)
    assert _same(weights(tmp_path / "again"), whole)

    shutil.rmtree(out / "checkpoints" / f"step_{STEPS:08d}")
    shutil.rmtree(out / "student")
    distill(recipe, out=out, resume=True, console=QUIET)
    assert _same(weights(out), whole)
    assert json.loads((out / "environment.json").read_text())["rate"] == note


@pytest.mark.usefixtures("_few_steps_are_enough")
def test_two_processes_find_the_rate_of_one_and_leave_the_same_recipe(tmp_path: Path) -> None:
    changes = [
        "optimizer.name=sgd",
        "tasks.shape.weights.soft_targets=300",  # too much for the usual rate, so that the test decides
        "training.steps=20",
    ]
    recipe = toy_world.build(tmp_path)
    one, two = tmp_path / "one", tmp_path / "two"
    distill(load_recipe(recipe, changes), out=one, console=QUIET)
    options = ["--out", two, *(f"--set={change}" for change in changes)]
    both = forked.run_two("distill", recipe, *options, prepare=few_steps)
    assert [ended.status for ended in both] == [0, 0], both
    resolved = [(out / "recipe.resolved.yaml").read_text() for out in (one, two)]
    assert resolved[0] == resolved[1]
    rates = [json.loads((out / "environment.json").read_text())["rate"] for out in (one, two)]
    assert rates[0]["said"] == rates[1]["said"]
    assert "at which training diverges" in rates[0]["said"], rates[0]["said"]
    assert rates[0]["said"] in " ".join(both[0].text.split())
    for ours, theirs in zip(rates[0]["curve"], rates[1]["curve"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)


def _same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)
