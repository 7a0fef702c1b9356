"""The log of a run: metrics.jsonl, one line per logged step, and trackers such as TensorBoard.

metrics.jsonl is the record and always written. A tracker that fails along the way is left out with a warning, and
the run goes on.
"""

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from torch import Tensor

from distill_mtl.errors import UserError, brief
from distill_mtl.recipe import Recipe
from distill_mtl.run_notes import read_metrics_lines
from distill_mtl.system_errors import naming
from distill_mtl.training.run_folder import RunFolder
from distill_mtl.training.step import StepReport

PROJECT = "distill_mtl"
"""The project's name in trackers."""
_log = logging.getLogger(__name__)


class MetricsLog:
    """Appends lines that are complete on disk as soon as they are written. A context manager.

    Args:
        path: the file; an existing one is continued.
        enabled: False writes nothing (every process but the first).
    """

    def __init__(self, path: Path, *, enabled: bool = True) -> None:
        self._path = path
        with naming(path, every=True):
            self._file: TextIO | None = path.open("a", buffering=1) if enabled else None

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line.

        Raises:
            WriteError: the disk is full, or the like.
        """
        if self._file is not None:
            with naming(self._path, every=True):
                self._file.write(json.dumps(_rounded(line), allow_nan=False) + "\n")

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()


class SinceLine:
    """What happened since the last line, without waiting for the device.

    Args:
        step: of that line.
    """

    def __init__(self, step: int) -> None:
        self._step, self._began, self._waited = step, time.monotonic(), 0.0
        self._norms: Tensor | None = None
        self._clipped: Tensor | None = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """For the block the step waits for its rows."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    def note(self, report: StepReport, clip: float | None) -> None:
        """One step, and the largest norm of its gradients."""
        if report.gradient_norm is not None and clip is not None:
            norm = report.gradient_norm.detach().float()
            clipped = (norm > clip).float()
            self._norms = norm if self._norms is None else self._norms + norm
            self._clipped = clipped if self._clipped is None else self._clipped + clipped

    def measured(self, step: int, batch_size: int) -> dict[str, float]:
        """Rows per second, the share of the time in which steps waited for rows, and with clipping the mean norm of
        the gradients before it (left out where it is not finite) and the share of clipped steps.

        Args:
            step: the present one.
            batch_size: rows of a step.
        """
        seconds, steps = time.monotonic() - self._began, step - self._step
        found = {"rows_per_second": steps * batch_size / seconds, "waiting": self._waited / seconds}
        if self._norms is not None and self._clipped is not None:
            norm = float(self._norms) / steps
            found |= {"gradient_norm": norm} if math.isfinite(norm) else {}
            found["clipped"] = float(self._clipped) / steps
        return found


class Trackers:
    """The trackers of a recipe, from their start to their end. A context manager, for one process alone.

    TensorBoard's files lie in the run folder and are written anew from metrics.jsonl whenever training begins or
    continues, so that they never hold a step twice. The others keep their logs where their own settings say.

    Args:
        recipe: names them under `training.trackers`, and is logged whole as the run's hyperparameters.
        folder: of the run, its metrics cut to where training goes on.
        enabled: False does nothing (every process but the first).

    Raises:
        UserError: a tracker could not be started.
    """

    def __init__(self, recipe: Recipe, folder: RunFolder, *, enabled: bool = True) -> None:
        self._recipe, self._folder = recipe, folder
        self._names = tuple(dict.fromkeys(recipe.training.trackers)) if enabled else ()
        self._running: list[GeneralTracker] = []

    def write(self, line: Mapping[str, Any]) -> None:
        """Show one line of metrics.jsonl: every number, under the names of its keys with `/` between them."""
        self._each(lambda tracker: _show(tracker, line))

    def __enter__(self) -> "Trackers":
        try:
            for name in self._names:
                self._start(name)
        except BaseException:
            self._finish()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish()

    def _start(self, name: str) -> None:
        hyperparameters = dict(flat(self._recipe.model_dump(mode="json", by_alias=True)))
        try:
            tracker = self._make(name)
            tracker.start()
            self._running.append(tracker)
            tracker.store_init_configuration(hyperparameters)
        except Exception as error:
            alone = UserError(
                f"training.trackers: {name} could not be started: {brief(error)}. Correct its settings, or remove it "
                "from the list."
            )
            alone.everywhere = False  # the other processes have no trackers
            raise alone from error
        if name == "tensorboard" and self._folder.metrics.exists():
            for line in read_metrics_lines(self._folder.metrics):
                _show(tracker, line)

    def _make(self, name: str) -> GeneralTracker:
        kind: type[GeneralTracker] = LOGGER_TYPE_TO_CLASS[name]
        if name == "tensorboard":
            shutil.rmtree(self._folder.tensorboard, ignore_errors=True)
            return kind(self._folder.tensorboard.name, self._folder.path)
        if kind.requires_logging_directory:
            return kind(PROJECT, self._folder.path)
        return kind(PROJECT)

    def _finish(self) -> None:
        self._each(lambda tracker: tracker.finish())
        self._running = []

    def _each(self, act: Callable[[GeneralTracker], None]) -> None:
        for tracker in list(self._running):
            try:
                act(tracker)
            except Exception as error:
                self._running.remove(tracker)
                _log.warning(
                    "%s failed and is left out from now on: %s. metrics.jsonl is still written",
                    tracker.name,
                    brief(error),
                )


def flat(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The plain values of nested mappings, each under its keys with `/` between them; a list as its JSON text."""
    for key, entry in value.items():
        here = f"{path}/{key}" if path else key
        if isinstance(entry, Mapping):
            yield from flat(entry, here)
        else:
            yield here, json.dumps(entry) if isinstance(entry, list) else entry


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _rounded(entry) for key, entry in value.items()}
    return value


def _show(tracker: GeneralTracker, line: Mapping[str, Any]) -> None:
    values = {key: value for key, value in flat(line) if isinstance(value, int | float) and key != "step"}
    tracker.log(values, step=line["step"])
