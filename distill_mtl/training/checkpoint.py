"""The state of a run between two steps, and its checkpoints: each complete or absent, resumable to the bit.

Random numbers and the stream's position are pure functions of seed and step, so a checkpoint holds
only what training changes: objective (student, terms, rule), optimizer, scaler, averaged weights, self-teachers, and
gradients that wait for their part's step.
"""

import hashlib
import json
import pickle
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast
from timm.utils import ModelEmaV3
from torch import Tensor

from distill_mtl.errors import UserError, brief
from distill_mtl.files import atomic_folder
from distill_mtl.networks.runtime import torch_archive
from distill_mtl.reading import open_regular, read_json
from distill_mtl.recipe.schema import TrainingSection
from distill_mtl.students.student import Student
from distill_mtl.training.broken_loss import broken_tensors, gather_everywhere
from distill_mtl.training.run_folder import RunFolder
from distill_mtl.training.step import Trainer

_NAME = re.compile(r"step_\d{8,}")
_STATE, _DESCRIPTION = "state.pt", "checkpoint.json"


class CheckpointError(UserError):
    """A checkpoint is not what was written."""


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
        assert decay != "auto"
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

    def broken(self) -> list[str]:
        """Names of what has a number that is not finite, on any process; such a state is no checkpoint."""
        parts = {"": self.trainer.objective}
        if self._average is not None:
            parts["average "] = self._average.module
        mine = [f"{part}{name}" for part, module in parts.items() for name in broken_tensors(module)]
        return list(dict.fromkeys(gather_everywhere(mine)))

    def save(self) -> Path | None:
        """Write a checkpoint from the main process; the others wait until it is complete.

        Raises:
            WriteError: the disk is full, or the like; the checkpoints before it are whole.
        """
        accelerator, training = self.trainer.accelerator, self.trainer.recipe.training
        path = None
        if accelerator.is_main_process:
            path = save_checkpoint(self.folder.checkpoints, self.step, self.state(), keep=training.keep)
            self.folder.commit()
        accelerator.wait_for_everyone()
        return path

    def restore(self) -> list[str] | None:
        """Go back to the newest checkpoint that is whole, if there is one; those that are not are set aside.

        Returns:
            What is wrong with each newer one; None where there is no checkpoint at all.

        Raises:
            CheckpointError: there are checkpoints, and none is whole.
        """
        findings: list[str] = []
        broken: list[Path] = []
        for path in reversed(list_checkpoints(self.folder.checkpoints)):
            try:
                step, state = load_checkpoint(path)
                self.load(state)
            except CheckpointError as error:
                findings.append(str(error))
            except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
                findings.append(f"{path} is not a checkpoint of this run ({brief(error)})")
            else:
                self.step = step
                break
            broken.append(path)
        else:
            if not findings:
                return None
            raise CheckpointError(
                f"no checkpoint is whole: {'; '.join(findings)}. Start again with --overwrite."
            )
        self.trainer.accelerator.wait_for_everyone()
        if self.trainer.accelerator.is_main_process:
            for path in broken:  # which would otherwise count among those that are kept
                _set_aside(path)
        return findings

    def state(self) -> dict[str, Any]:
        """What training changes; its tensors are those that train, not copies."""
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

    def load(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave."""
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


def run_bytes(weights: int, training: TrainingSection, *, begun: bool) -> int:
    """About what a run's checkpoints and student take on the disk while the last of them is written.

    Args:
        weights: bytes of the student to be trained; terms and balancing rule are small beside it.
        training: of the recipe.
        begun: earlier checkpoints of the run are there.
    """
    copies = (
        3 + (training.ema is not None) + (training.select == "best")
    )  # AdamW keeps two numbers for each weight
    return weights * (copies * (1 if begun else training.keep + 1) + 2)


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any], *, keep: int) -> Path:
    """Write `folder/step_00000500` and the like, whole or not at all, then drop the oldest beyond `keep`.

    Call it on the main process only. A kill at any moment leaves every earlier checkpoint whole.
    """
    final = folder / _name(step)
    with atomic_folder(final, durable=True) as made:
        with open(made / _STATE, "wb") as file:
            torch.save(dict(state), file)
        described = {"step": step, "sha256": _digest(made / _STATE)}
        (made / _DESCRIPTION).write_text(json.dumps(described) + "\n")
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step_*") if _NAME.fullmatch(path.name) and path.is_dir())


def load_checkpoint(path: Path) -> tuple[int, dict[str, Any]]:
    """Step and state of a checkpoint, on the CPU.

    Tensors and plain values only: no pickled code is run, and nothing is read that is not what was written.

    Raises:
        CheckpointError: a file is missing, cut or changed.
    """
    try:
        described = read_json(path / _DESCRIPTION, dict[str, Any])
        step, digest = described["step"], described["sha256"]
    except (UserError, KeyError) as error:
        raise CheckpointError(f"{path / _DESCRIPTION} cannot be read ({brief(error)})") from error
    if type(step) is not int or path.name != _name(step):
        raise CheckpointError(f"{path / _DESCRIPTION} says step {step!r:.40}, the folder another")
    try:
        found = _digest(path / _STATE)
    except OSError as error:
        raise CheckpointError(f"{path / _STATE} cannot be read ({brief(error)})") from error
    if found != digest:
        raise CheckpointError(f"{path / _STATE} is not as it was written: its digest differs")
    try:
        with torch_archive(path / _STATE):  # bounds what it unpacks to
            state: dict[str, Any] = torch.load(path / _STATE, map_location="cpu", weights_only=True)
    except (
        UserError,
        pickle.UnpicklingError,
        EOFError,
    ) as error:  # the digest beside it is of another program
        raise CheckpointError(f"{path / _STATE} is not what this program writes ({brief(error)})") from error
    return step, state


def _name(step: int) -> str:
    return f"step_{step:08d}"


def _set_aside(path: Path) -> None:
    aside = path.with_name(f"broken_{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)


def _digest(file: Path) -> str:
    with open_regular(file) as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
