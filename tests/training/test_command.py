import os
from pathlib import Path

import children
import pytest
import quickstart
import torch
import toy_world
import yaml

from distill_mtl.training.processes import take_all_cores


def test_a_student_below_its_acceptance_is_exit_status_3_and_still_saved(tmp_path: Path) -> None:
    """In bf16, which trains through Accelerate's autocast on the CPU too."""
    recipe, out = toy_world.build(tmp_path), tmp_path / "run"
    changes = ("training.precision=bf16", "acceptance=0")
    done = children.run("distill", recipe, "--out", out, *(f"--set={change}" for change in changes))
    assert done.returncode == 3, done.stdout + done.stderr
    assert "not accepted" in done.stdout
    assert all(torch.isfinite(weight).all() for weight in quickstart.weights(out).values())


def test_labels_only_through_the_launcher_needs_no_other_change(tmp_path: Path) -> None:
    out, cache = tmp_path / "run", tmp_path / "cache"
    launcher = ("-m", "accelerate.commands.launch", "--config_file", "accelerate.yaml")
    steps = ("--labels-only", "--set=training.steps=3", "--cache", str(cache))
    done = quickstart.tried(out, *steps, "--set=balance=mgda_ub", launcher=launcher, script=["distill.py"])
    assert done.returncode == 0, done.stdout + done.stderr
    resolved = yaml.safe_load((out / "recipe.resolved.yaml").read_text())
    assert resolved["training"]["teachers_on"] == "none"
    assert "balance: uniform (auto" in done.stdout
    assert list(cache.rglob("left-train.tar"))
    assert set(quickstart.metrics(out)[-1]["tasks"]["left"]) == {"total", "supervised", "weight"}


def test_a_single_process_under_the_launcher_takes_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
        take_all_cores()
        assert torch.get_num_threads() == 1, "nobody but the launcher set the variable for us"
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
        take_all_cores()
        assert torch.get_num_threads() == (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        )
    finally:
        torch.set_num_threads(before)
