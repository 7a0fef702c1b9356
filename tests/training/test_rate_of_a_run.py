"""A run finds its rate, begins where it would have begun without the search, and resumes to the bit without another."""

import json
import shutil
from pathlib import Path

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


def _same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)
