"""The state of a run between two steps, and its checkpoints: each complete or absent, resumable to the bit.

Random numbers and the stream's position are pure functions of seed and step, so a checkpoint holds
only what training changes: objective (student, terms, rule), optimizer, scaler, averaged weights, self-teachers, and
gradients that wait for their part's step.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast
from timm.utils import ModelEmaV3
from torch import Tensor

from distill_mtl.files import atomic_folder
from distill_mtl.students.student import Student
from distill_mtl.training.run_folder import RunFolder
from distill_mtl.training.step import Trainer

_log = logging.getLogger(__name__)


class Session:
    """A trainer, its averaged weights and its best weights so far, saved and restored as one.

    Args:
        trainer: prepared on its device.
        folder: of the run.

    Attributes:
        step: optimizer steps done.
        seconds: training time so far, over all starts of the run.
        best: highest mean delta on validation so far, with `training.select: best`.
    """

    def __init__(self, trainer: Trainer, folder: RunFolder) -> None:
        self.trainer, self.folder = trainer, folder
        self.step, self.seconds = 0, 0.0
        self.best = float("-inf")
        self._best_weights: dict[str, Tensor] | None = None
        decay = trainer.recipe.training.ema
        self._average = (
            ModelEmaV3(trainer.objective.student, decay=decay, use_warmup=True) if decay is not None else None
        )

    @property
    def student(self) -> Student:
        """The weights to evaluate: averaged ones where the recipe asks for them."""
        return self.trainer.objective.student if self._average is None else self._average.module

    def after_step(self) -> None:
        """Count the step and move the averaged weights."""
        self.step += 1
        if self._average is not None:
            self._average.update(self.trainer.objective.student, step=self.step)

    def save(self) -> Path | None:
        """Write a checkpoint from the main process; the others wait until it is complete."""
        accelerator, training = self.trainer.accelerator, self.trainer.recipe.training
        path = None
        if accelerator.is_main_process:
            path = save_checkpoint(self.folder.checkpoints, self.step, self._state(), keep=training.keep)
        accelerator.wait_for_everyone()
        return path

    def restore(self) -> bool:
        """Go back to the last checkpoint that can be read; False where there is none."""
        for path in reversed(list_checkpoints(self.folder.checkpoints)):
            try:
                self.step, state = load_checkpoint(path)
            except (OSError, ValueError, RuntimeError, KeyError) as error:
                _log.warning("%s cannot be read (%s); going back to the one before", path, error)
                continue
            self._load(state)
            return True
        return False

    def synchronise(self) -> None:
        """Give every process the first one's running statistics.

        On the CPU BatchNorm is local to a process, and what is saved is the first one's; what is measured
        must be the same network.
        """
        if self.trainer.accelerator.num_processes > 1:
            for buffer in self.student.buffers():
                broadcast(buffer)

    def offer(self, score: float) -> None:
        """Keep the present weights as the best where `score` beats the best so far."""
        if score > self.best:
            self.best = score
            self._best_weights = {
                name: value.cpu().clone() for name, value in self.student.state_dict().items()
            }

    def take_best(self) -> None:
        """Put the best weights into the student; the present ones where none were offered."""
        if self._best_weights is not None:
            self.student.load_state_dict(self._best_weights)

    def _load(self, state: dict[str, Any]) -> None:
        self.seconds, self.best, self._best_weights = state["seconds"], state["best"], state["best_weights"]
        self.trainer.objective.load_state_dict(state["objective"])
        self.trainer.plain_optimizer.load_state_dict(state["optimizer"])
        if self.trainer.accelerator.scaler is not None:
            self.trainer.accelerator.scaler.load_state_dict(state["scaler"])
        if self._average is not None:
            self._average.module.load_state_dict(state["average"])
        self.trainer.providers.load_state_dict(state["self_teachers"])
        if self.trainer.asynchronous is not None:
            self.trainer.asynchronous.load_state_dict(state["asynchronous"])

    def _state(self) -> dict[str, Any]:
        scaler, asynchronous = self.trainer.accelerator.scaler, self.trainer.asynchronous
        return {
            "seconds": self.seconds,
            "best": self.best,
            "best_weights": self._best_weights,
            "objective": self.trainer.objective.state_dict(),
            "optimizer": self.trainer.plain_optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "average": None if self._average is None else self._average.module.state_dict(),
            "self_teachers": self.trainer.providers.state_dict(),
            "asynchronous": None if asynchronous is None else asynchronous.state_dict(),
        }


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
    """Step and state of a checkpoint, on the CPU.

    Tensors and plain values only: no pickled code is run.
    """
    step = int(json.loads((path / "checkpoint.json").read_text())["step"])
    return step, torch.load(path / "state.pt", map_location="cpu", weights_only=True)
