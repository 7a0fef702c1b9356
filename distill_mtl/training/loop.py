"""The training loop of a run: from the session's step to the last one, or to a request to stop.

Around each step (`step.Trainer`) it agrees with the other processes on whether to go on, writes metrics and
checkpoints, and shows where the run is. Ctrl-C and SIGTERM end it after a step, with a checkpoint.
"""

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice
from types import FrameType, TracebackType
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console

from distill_mtl.cores import reader_workers
from distill_mtl.data.batch import Batch, ProcessShare
from distill_mtl.display import Display, losses_note
from distill_mtl.errors import Stopped, StoppedElsewhere, UserError, WriteError, a_few
from distill_mtl.recipe.schema import task_of
from distill_mtl.training.broken_loss import LossWatch, causes, gather_everywhere
from distill_mtl.training.checkpoint import Session, list_checkpoints
from distill_mtl.training.log import MetricsLog, SinceLine, Trackers
from distill_mtl.training.parts import Parts
from distill_mtl.training.run_folder import RunFolder
from distill_mtl.training.step import StepReport


class TrainingLoop:
    """Trains a session to its end.

    Args:
        parts: of the run.
        session: restored or fresh.
        folder: where metrics and checkpoints go.
        console: where progress is shown.
        score: how good the student is now, on validation rows; what `select: best` maximises.
        look: at the student on some validation rows: scores by task, for the report. Called on every process.
        look_after: these steps.
    """

    def __init__(
        self,
        parts: Parts,
        session: Session,
        folder: RunFolder,
        console: Console,
        *,
        score: Callable[[], float],
        look: Callable[[], Mapping[str, float]] = dict,
        look_after: Collection[int] = (),
    ) -> None:
        self.parts, self.session, self.folder, self.console = parts, session, folder, console
        self.score, self.look, self.look_after = score, look, look_after
        self.trainer, self.training = session.trainer, parts.recipe.training
        self.accelerator = session.trainer.accelerator
        self._watch = LossWatch(self.accelerator)
        self._began = time.monotonic() - session.seconds
        self._since = SinceLine(session.step)

    def run(self) -> None:
        """Train; write metrics, checkpoints and, where asked, the best weights.

        Raises:
            Stopped: a signal came; a checkpoint was written.
            UserError: a row cannot be read, or a loss is not finite; where the weights are good, a
                checkpoint was written.
        """
        try:
            self._run()
        except WriteError as error:
            kept = list_checkpoints(self.folder.checkpoints)
            whole = f"{kept[-1]} is whole: continue" if kept else "No checkpoint was written yet: begin again"
            raise UserError(f"{error} {whole} with --resume.") from error

    def _run(self) -> None:
        session = self.session
        workers = reader_workers(self.training.workers, self.accelerator.device)
        self.trainer.module.train()
        with (
            StopRequest() as stop,
            MetricsLog(self.folder.metrics, enabled=self.accelerator.is_main_process) as log,
            Trackers(self.parts.recipe, self.folder, enabled=self.accelerator.is_main_process) as trackers,
            Display(self.console, "training", self.parts.steps, done=session.step) as display,
        ):
            steps = range(session.step, self.parts.steps)
            stream = micro_batches(self.parts, self.accelerator, steps, workers, lambda: stop.requested)
            while session.step < self.parts.steps:
                with self._since.waiting():
                    batches, error = self._read(stream)
                self._agree_to_go_on(stop.requested, error)
                report = self.trainer.step(
                    session.step, batches, diagnose=self._writes_line(session.step + 1)
                )
                self._watch.note(session.step, report)
                self._since.note(report, self.trainer.clip)
                session.after_step()
                if self._writes_line(session.step):
                    line = self._line(report)
                    log.write(line)
                    trackers.write(line)
                    totals = {task: terms["total"] for task, terms in line["tasks"].items()}
                    display.update(session.step, losses_note(totals, line["rows_per_second"]))
                if self._due(self.training.checkpoint_every, session.step):
                    self._refuse_broken(report)
                    self._refuse_broken_weights()
                    self._offer_best()
                    self._save()

    def _writes_line(self, step: int) -> bool:
        """Whether metrics.jsonl gets a line after so many steps."""
        due = self._due(self.training.log_every, step)
        return due or self.trainer.measures_harm(step) or step in self.look_after

    def _due(self, every: int, step: int) -> bool:
        return step % every == 0 or step == self.parts.steps

    def _read(self, stream: Iterator[Batch]) -> tuple[list[Batch], UserError | None]:
        """The micro-batches of the next step on this process, or what is wrong with one of their rows.

        None of them where a stop was asked for while they were read.
        """
        try:
            return list(islice(stream, self.training.accumulate)), None
        except Stopped:
            return [], None
        except UserError as error:
            return [], error

    def _agree_to_go_on(self, stopping: bool, error: UserError | None) -> None:
        """Stop on every process where one was asked to or cannot go on, after a common checkpoint."""
        flags = torch.tensor([int(stopping), int(error is not None)], device=self.accelerator.device)
        if self.accelerator.num_processes > 1:
            flags = self.accelerator.reduce(flags, "sum")
        any_stopping, any_error = flags.tolist()
        if not (any_stopping or any_error):
            return
        self._refuse_broken_weights()
        self._save()
        kept = f"Steps 1 to {self.session.step} of {self.parts.steps} are kept: correct it and continue with --resume."
        if not self.session.step:
            kept = "No step is done yet: correct it and begin again with --resume."
        if error is not None:
            alone = type(error)(f"{error}\n{kept}")
            alone.everywhere = any_error == self.accelerator.num_processes
            raise alone
        if any_error:
            raise StoppedElsewhere(kept)
        raise Stopped(
            f"stopped after step {self.session.step} of {self.parts.steps}. Nothing is lost: start the same command "
            f"with --resume to continue from {self.folder.checkpoints}."
        )

    def _refuse_broken(self, report: StepReport) -> None:
        """Raise UserError where a loss of the step is not finite."""
        values = report.values(self.accelerator)
        if broken := [task for task, terms in values.items() if not math.isfinite(terms["total"])]:
            task = broken[0]
            raise self._broken(f"the loss of {task} is {values[task]['total']} at step {self.session.step}")
        self._watch.reset()

    def _refuse_broken_weights(self) -> None:
        """Never let weights that have become NaN replace good checkpoints.

        Raises:
            UserError: a weight, an average or a running statistic is not finite.
        """
        if broken := self.session.broken():
            found = f"{a_few(broken, 3)} not finite after step {self.session.step}"
            raise self._broken(f"{found}, so no checkpoint was written")

    def _broken(self, found: str) -> UserError:
        """The error of a run whose numbers are not finite: where it began, its cause, and how to go on."""
        first, kept = self._watch.first(), list_checkpoints(self.folder.checkpoints)
        where = f"{kept[-1]} is from before" if kept else "no checkpoint is from before"
        if first is not None and (inputs := self._broken_inputs(first)):
            cause = f"Step {first + 1} began it: {'; '.join(inputs)}."
            remedy = "Correct that, or leave the rows out, and continue with --resume; " + where
        else:
            began = (
                "Every loss was finite, and a gradient was not"
                if first is None
                else f"Step {first + 1} began it. Labels and teachers' answers are finite, so the student diverged"
            )
            limit = self.trainer.clip
            clip = "set training.clip" if limit is None else f"lower training.clip ({limit:g})"
            cause = (
                f"{began} at optimizer.lr {self.trainer.lr:g}, precision {self.accelerator.mixed_precision}."
            )
            remedy = f"Lower optimizer.lr, {clip} or train in fp32, and start again with --overwrite; {where}"
        return UserError(f"{found}. {cause} {remedy}.")

    def _broken_inputs(self, step: int) -> list[str]:
        """What in the rows of a step, which are read again, breaks its loss; the same on every process."""
        stage, findings = self.parts.schedule.at(step), list[str]()
        for batch in micro_batches(self.parts, self.accelerator, range(step, step + 1)):
            rows = self.trainer.providers.teachers.rows(batch)
            wanted = {name: mine for name, mine in rows.items() if task_of(name) in stage.taught}
            seen = batch.to(self.accelerator.device)
            findings += causes(
                self.trainer.objective.student, seen, self.trainer.providers.teachers(seen, wanted)
            )
        return list(dict.fromkeys(gather_everywhere(findings)))

    def _offer_best(self) -> None:
        if self.training.select == "best":
            self.session.offer(self.score())

    def _save(self) -> None:
        self.session.seconds = time.monotonic() - self._began
        self.session.save()

    def _line(self, report: StepReport) -> dict[str, Any]:
        """One line of metrics.jsonl, the same on every process.

        Raises:
            UserError: a loss is not finite.
        """
        self._refuse_broken(report)
        step, diagnostics = self.session.step, self.parts.rule.diagnostics
        measured = self._since.measured(step, self.training.batch_size)
        self._since = SinceLine(step)
        return {
            "step": step,
            "seconds": time.monotonic() - self._began,
            **measured,
            "lr": report.rate,
            "tasks": report.values(self.accelerator),
            "cosines": diagnostics.cosines,
            "norm": diagnostics.norm,
            "lengths": diagnostics.lengths,
            **({} if diagnostics.harmed is None else {"harmed": diagnostics.harmed}),
            **({"validation": self.look()} if step in self.look_after else {}),
        }


def micro_batches(
    parts: Parts,
    accelerator: Accelerator,
    steps: range,
    workers: int = 0,
    stopping: Callable[[], bool] = lambda: False,
) -> Iterator[Batch]:
    """This process's micro-batches of some steps of a run, one after the other."""
    return iter(
        parts.sources.stream(
            micro_batches=parts.recipe.training.accumulate,
            share=ProcessShare(accelerator.process_index, accelerator.num_processes),
            start_step=steps.start,
            steps=steps.stop,
            workers=workers,
            stopping=stopping,
        )
    )


class StopRequest:
    """Context manager that turns the first SIGINT or SIGTERM into `requested`; a second one acts at once."""

    def __init__(self) -> None:
        self._signalled = False
        self._before: dict[int, object] = {}
        # `accelerate launch` passes no signal on: a launcher that was stopped is seen by its absence.
        self._launcher = os.getppid() if "ACCELERATE_MIXED_PRECISION" in os.environ else None

    @property
    def requested(self) -> bool:
        """Whether a signal came, or the launcher went."""
        return self._signalled or (self._launcher is not None and os.getppid() != self._launcher)

    def __enter__(self) -> "StopRequest":
        # Handlers can only be set in the main thread; elsewhere (a notebook server) whoever runs it decides.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True
        signal.signal(number, self._before[number])  # type: ignore[arg-type]
