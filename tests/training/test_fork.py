"""A fork trains, and leaves no trace."""

from pathlib import Path

import pytest
import torch
from rich.console import Console

from distill_mtl import load_recipe
from distill_mtl.checks.before_training import run_check
from distill_mtl.jobs.distill import calibrate, open_session
from distill_mtl.training.fork import SHARE, fork, fork_losses, whole_run_rates
from distill_mtl.training.loop import micro_batches
from distill_mtl.training.parts import build
from distill_mtl.training.processes import start_accelerator
from distill_mtl.training.run_folder import RunFolder


@pytest.mark.parametrize("optimizer", ["sgd", "muon", "adamw"])
def test_a_session_is_as_it_was_and_forks_alike_each_time(
    recipe: Path, tmp_path: Path, optimizer: str
) -> None:
    parts = build(load_recipe(recipe, ["training.steps=150", f"optimizer.name={optimizer}"]))
    accelerator = start_accelerator(parts.recipe.training)
    run_check(parts, accelerator.device, Console(quiet=True))
    teachers = parts.targets()
    session = open_session(parts, accelerator, RunFolder(tmp_path / "run"), teachers)
    calibrate(parts, accelerator, teachers)
    rates = whole_run_rates(session)
    assert len(rates) == int(SHARE * parts.steps) == 3
    before = {name: value.clone() for name, value in session.trainer.objective.state_dict().items()}
    losses = []
    for _ in range(2):
        with fork(session):
            stream = micro_batches(parts, accelerator, range(parts.steps))
            losses.append(list(fork_losses(session, stream, rates)))
            after = session.trainer.objective.state_dict()
            assert any(not torch.equal(after[name], value) for name, value in before.items())
        after = session.trainer.objective.state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())
    assert losses[0] == losses[1]
    assert len(losses[0]) == len(rates)


def test_a_run_of_few_steps_has_no_fork(recipe: Path, tmp_path: Path) -> None:
    parts = build(load_recipe(recipe, ["training.steps=49"]))
    accelerator = start_accelerator(parts.recipe.training)
    session = open_session(parts, accelerator, RunFolder(tmp_path / "run"), parts.targets())
    assert whole_run_rates(session) == []
