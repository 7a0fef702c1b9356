import json
import subprocess
import sys
from pathlib import Path

import children
import forked
import psutil
import pytest
import quickstart
import torch
import toy_world
import yaml

from distill_mtl.cores import usable_cores
from distill_mtl.training.processes import take_all_cores


def test_a_student_that_is_not_accepted_ends_the_run_well_and_the_verdict_is_its_last_line(
    tmp_path: Path,
) -> None:
    """Through the launcher, in two processes: it would make a traceback of any status but 0."""
    out = tmp_path / "run"
    done = children.run(
        "distill", toy_world.build(tmp_path), "--out", out, "--set=acceptance=0", launcher=children.TWO
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "not accepted" in done.stdout.rstrip("\n").splitlines()[-1]
    assert not json.loads((out / "results.json").read_text())["accepted"]


def test_a_gate_makes_acceptance_an_exit_status_and_the_student_is_still_saved(tmp_path: Path) -> None:
    """In bf16, which trains through Accelerate's autocast on the CPU too."""
    recipe, out = toy_world.build(tmp_path), tmp_path / "run"
    changes = ("training.precision=bf16", "acceptance={margin: 0, gate: true}")
    ended = forked.run("distill", recipe, "--out", out, *(f"--set={change}" for change in changes))
    assert ended.status == 3, ended.text
    assert "not accepted" in ended.line
    assert all(torch.isfinite(weight).all() for weight in quickstart.weights(out).values())


def test_labels_only_through_the_launcher_needs_no_other_change(tmp_path: Path) -> None:
    out, cache = tmp_path / "run", tmp_path / "cache"
    launcher = ("-m", "accelerate.commands.launch", "--config_file", "accelerate.yaml")
    steps = ("--labels-only", "--set=training.steps=3", "--cache", str(cache))
    done = quickstart.tried(out, *steps, "--set=balance=mgda_ub", launcher=launcher)
    assert done.returncode == 0, done.stdout + done.stderr
    resolved = yaml.safe_load((out / "recipe.resolved.yaml").read_text())
    assert resolved["training"]["teachers_on"] == "none"
    assert "balance: uniform (auto" in done.stdout
    assert list(cache.rglob("left-train.tar"))
    assert set(quickstart.metrics(out)[-1]["tasks"]["left"]) == {"total", "supervised", "weight"}


@pytest.mark.parametrize(
    ("set_by", "all_cores"), [("launcher", True), ("nobody", False), ("user", False), ("argument", False)]
)
def test_a_single_process_takes_all_cores_unless_the_user_asked_for_fewer(
    monkeypatch: pytest.MonkeyPatch, set_by: str, all_cores: bool
) -> None:
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    if set_by == "nobody":
        monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    else:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    environment = {"OMP_NUM_THREADS": "1"} if set_by == "user" else {}
    arguments = ["--num_cpu_threads_per_process=1"] if set_by == "argument" else ["distill.py"]
    monkeypatch.setattr(psutil.Process, "environ", lambda process: environment)
    monkeypatch.setattr(psutil.Process, "cmdline", lambda process: arguments)
    try:
        torch.set_num_threads(1)
        take_all_cores()
        assert torch.get_num_threads() == (usable_cores() if all_cores else 1)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("asked", [None, "1"])
def test_the_real_launcher_leaves_the_users_threads_alone(tmp_path: Path, asked: str | None) -> None:
    script = tmp_path / "threads.py"
    script.write_text(
        "import torch; from distill_mtl.training.processes import take_all_cores\n"
        "take_all_cores(); print(torch.get_num_threads(), len(__import__('os').sched_getaffinity(0)))"
    )
    environment = children.environment() | ({"OMP_NUM_THREADS": asked} if asked else {})
    if asked is None:
        del environment["OMP_NUM_THREADS"]
    launch = ("-m", "accelerate.commands.launch", "--quiet", "--config_file", "accelerate.yaml", str(script))
    done = subprocess.run(
        [sys.executable, *launch],
        cwd=children.ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    threads, cores = done.stdout.split()[-2:]
    assert threads == (asked or cores)
