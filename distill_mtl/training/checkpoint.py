"""Checkpoints of a run: each complete or absent, the last few kept, resumable to the bit.

Random numbers and the stream's position are pure functions of seed and step, so a checkpoint holds
only what training changes: objective (student, adapters, rule), optimizer, scaler, averaged weights,
self-teachers, and gradients that wait for their part's step.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from distill_mtl.files import atomic_folder


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any], *, keep: int) -> Path:
    """Write `folder/step_00000500` and the like, whole or not at all, then drop the oldest beyond `keep`.

    Call it on the main process only. A kill at any moment leaves every earlier checkpoint whole.
    """
    final = folder / f"step_{step:08d}"
    with atomic_folder(final, durable=True) as made:
        torch.save(dict(state), made / "state.pt")
        (made / "checkpoint.json").write_text(json.dumps({"step": step}) + "\n")
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step_*") if path.is_dir())


def load_checkpoint(path: Path) -> tuple[int, dict[str, Any]]:
    """Step and state of a checkpoint, on the CPU: whoever takes a tensor moves it where it belongs.

    Tensors and plain values only: no pickled code is run.
    """
    step = int(json.loads((path / "checkpoint.json").read_text())["step"])
    return step, torch.load(path / "state.pt", map_location="cpu", weights_only=True)
