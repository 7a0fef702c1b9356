"""Processes that tests start: how they are launched, and what surrounds them."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
TWO = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0")
"""The launcher of two processes on one machine."""
TOYS = ("tests/toy_command.py",)
"""The script that knows the toy networks, and whose runs are short."""


def environment() -> dict[str, str]:
    """One thread, on the CPU, generated data in the session's cache, this checkout first."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": path}


def command(*arguments: object, launcher: Sequence[str] = (), script: Sequence[str] = TOYS) -> list[str]:
    return [sys.executable, *launcher, *script, *map(str, arguments)]


def run(
    *arguments: object, launcher: Sequence[str] = (), script: Sequence[str] = TOYS
) -> subprocess.CompletedProcess[str]:
    """To its end, in the checkout's folder."""
    return subprocess.run(
        command(*arguments, launcher=launcher, script=script),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
