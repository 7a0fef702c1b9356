"""Checkpoints of a run: each complete or absent, the last few kept, resumable to the bit.

Random numbers and the stream's position are pure functions of seed and step, so a checkpoint holds
only what training changes: objective (student, adapters, rule), optimizer, scaler, averaged weights.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any], *, keep: int) -> Path:
    """Write `folder/step_00000500` and the like aside, rename it into place, then drop the oldest beyond `keep`.

    Call it on the main process only. A kill at any moment leaves every earlier checkpoint whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step_{step:08d}"
    aside = folder / f".step_{step:08d}.part"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    with (aside / "state.pt").open("wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    (aside / "checkpoint.json").write_text(json.dumps({"step": step}) + "\n")
    if final.exists():
        shutil.rmtree(final)
    os.replace(aside, final)
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step_*") if path.is_dir())


def load_checkpoint(path: Path, device: torch.device) -> tuple[int, dict[str, Any]]:
    """Step and state of a checkpoint. Tensors and plain values only: no pickled code is run."""
    step = int(json.loads((path / "checkpoint.json").read_text())["step"])
    return step, torch.load(path / "state.pt", map_location=device, weights_only=True)
