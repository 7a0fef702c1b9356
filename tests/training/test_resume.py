import os
import signal
import subprocess
import time
from pathlib import Path

import children
import pytest
import quickstart
import torch

STEPS = (
    "--set=training.steps=24",
    "--set=training.checkpoint_every=6",
    "--set=training.ema=0.9",
    "--set=training.select=best",
)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    quickstart.run(out, *STEPS)
    return out


def test_a_run_killed_with_kill_9_ends_bit_identical(uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    process = _start(out)
    _wait_for(out / "checkpoints" / "step_00000012", process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (out / "results.json").exists()
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "half a li')
    quickstart.run(out, *STEPS, "--resume")
    _identical(uninterrupted, out)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_run_whose_process_group_is_signalled_saves_says_how_to_go_on_and_ends_bit_identical(
    uninterrupted: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """As a terminal, torchrun and Slurm do it: the reader processes get the signal too."""
    out = tmp_path / "stopped"
    process = _start(out, "--set=training.workers=1")
    _wait_for(out / "checkpoints" / "step_00000006", process)
    os.killpg(process.pid, number)
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "--resume" in errors
    quickstart.run(out, *STEPS, "--resume")
    _identical(uninterrupted, out)


def test_resuming_with_another_recipe_is_refused_with_the_difference(uninterrupted: Path) -> None:
    done = quickstart.tried(uninterrupted, *STEPS, "--resume", "--set=seed=1")
    assert done.returncode == 2
    assert "-seed: 0" in done.stderr
    assert "+seed: 1" in done.stderr
    assert "Traceback" not in done.stderr


def _start(out: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        quickstart.command(out, *STEPS, *options),
        cwd=children.ROOT,
        env=children.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=os.setpgrp,
    )


def _wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)


def _identical(one: Path, other: Path) -> None:
    ours, theirs = quickstart.weights(one), quickstart.weights(other)
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())
    timeless = ("seconds", "rows_per_second")
    lines = [
        [{k: v for k, v in line.items() if k not in timeless} for line in quickstart.metrics(out)]
        for out in (one, other)
    ]
    assert lines[0] == lines[1]
