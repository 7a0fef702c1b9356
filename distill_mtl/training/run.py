"""The main job, end to end: check, train, compare with the teachers, leave a folder that anyone can load."""

import os
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console

from distill_mtl.checks.check import run_check
from distill_mtl.data.batch import Batch
from distill_mtl.distillation.calibrate import calibrate_hints
from distill_mtl.distillation.objective import Objective
from distill_mtl.errors import Stopped
from distill_mtl.evaluation import Evaluation
from distill_mtl.recipe import Recipe, dump_recipe, load_recipe
from distill_mtl.teachers.live import LiveTeachers
from distill_mtl.training.build import Parts, build, known_names
from distill_mtl.training.display import Display, losses_note
from distill_mtl.training.finish import Examiner, finish
from distill_mtl.training.log import MetricsLog
from distill_mtl.training.loop import StepReport, Trainer
from distill_mtl.training.manifest import write_teachers
from distill_mtl.training.processes import start_accelerator
from distill_mtl.training.run_folder import RunFolder
from distill_mtl.training.session import Session
from distill_mtl.training.stop import StopRequest

CALIBRATION_BATCHES = 8


def distill(
    recipe: Recipe | Path | str,
    *,
    out: Path | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> Evaluation:
    """Train one student from the teachers and data sets of a recipe, and compare it with them.

    Args:
        recipe: a loaded recipe, or the path of its file.
        out: the run folder; default `runs/NAME`.
        resume: go on from the last checkpoint in it.
        overwrite: delete the run that is in it.
        console: where to show progress; default standard output of the first process.

    Returns:
        The comparison that was printed and written to results.json.

    Raises:
        UserError: the recipe, the data or a teacher is wrong; nothing was lost.
        Stopped: Ctrl-C or SIGTERM arrived; a checkpoint was written.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, choices=known_names())
    accelerator = start_accelerator(recipe.training)
    console = console or Console()
    if not accelerator.is_main_process:
        console = Console(quiet=True)
    folder = RunFolder(Path(out) if out is not None else Path("runs") / str(recipe.name))
    resolved = dump_recipe(recipe)
    folder.refuse(resolved, resume=resume, overwrite=overwrite)

    parts = build(recipe)
    if resume:
        folder.same_teachers({task: teacher.describe() for task, teacher in parts.teachers.items()})
    if accelerator.is_main_process:
        scores = run_check(parts, accelerator.device, console)
        folder.begin(resolved, resume=resume)
        write_teachers(folder.teachers, parts.teachers, scores)
    accelerator.wait_for_everyone()

    session = _train(parts, accelerator, folder, console, resume=resume)
    return finish(parts, session, folder, console)


def _train(
    parts: Parts, accelerator: Accelerator, folder: RunFolder, console: Console, *, resume: bool
) -> Session:
    """Train from the last checkpoint, or from the beginning, to the last step."""
    teachers = LiveTeachers(parts.teachers, parts.recipe.training.teachers_on).to(accelerator.device)
    objective = Objective(parts.student, parts.lessons, parts.hints, parts.rule).to(accelerator.device)
    trainer = Trainer(
        accelerator,
        objective,
        teachers,
        parts.recipe,
        steps=parts.steps,
    )
    session = Session(trainer, folder)
    if resume and session.restore():
        console.print(f"resuming after step {session.step} of {parts.steps}")
    else:
        samples = islice(parts.sources.stream(steps=CALIBRATION_BATCHES), CALIBRATION_BATCHES)
        calibrate_hints(
            (batch.to(accelerator.device) for batch in samples), teachers, parts.lessons, parts.hints
        )
    if accelerator.is_main_process:
        folder.cut_metrics(session.step)
    _Sitting(parts, session, folder, console).run()
    return session


class _Sitting:
    """One sitting of a run: from where the session stands to the last step, or to a request to stop."""

    def __init__(self, parts: Parts, session: Session, folder: RunFolder, console: Console) -> None:
        self.parts, self.session, self.folder, self.console = parts, session, folder, console
        self.trainer, self.training = session.trainer, parts.recipe.training
        self.examiner = Examiner(parts, session, console)
        self.accelerator = session.trainer.accelerator

    def run(self) -> None:
        """Train; write metrics, checkpoints and, where asked, the best weights.

        Raises:
            Stopped: after the checkpoint that a signal asked for.
        """
        session, steps = self.session, self.parts.steps
        log = MetricsLog(self.folder.metrics) if self.accelerator.is_main_process else None
        began = time.monotonic() - session.seconds
        logged_at, logged_step = time.monotonic(), session.step
        self.trainer.module.train()
        with StopRequest() as stop, Display(self.console, "training", steps, done=session.step) as display:
            for batches in self._micro_batches():
                report = self.trainer.step(session.step, batches)
                session.after_step()
                if self._logs(session.step):
                    speed = (
                        (session.step - logged_step)
                        * self.training.batch_size
                        / (time.monotonic() - logged_at)
                    )
                    logged_at, logged_step = time.monotonic(), session.step
                    session.seconds = logged_at - began
                    line = self._line(report, speed)
                    if log is not None:
                        log.write(line)
                    display.update(
                        session.step, losses_note({t: v["total"] for t, v in line["tasks"].items()}, speed)
                    )
                stopping = self._anyone(stop.requested)
                if session.step % self.training.checkpoint_every == 0 or session.step == steps or stopping:
                    session.seconds = time.monotonic() - began
                    self._checkpoint()
                if stopping and session.step < steps:
                    raise Stopped(
                        f"stopped after step {session.step} of {steps}. Nothing is lost: start the same command "
                        f"with --resume to go on from {self.folder.checkpoints}."
                    )

    def _logs(self, step: int) -> bool:
        last = step == self.parts.steps
        return step % self.training.log_every == 0 or last or self.trainer.measures_harm(step)

    def _checkpoint(self) -> None:
        if self.training.select == "best":
            self.session.offer(self.examiner.mean_delta())
        self.session.save()

    def _micro_batches(self) -> Iterator[list[Batch]]:
        """The micro-batches of each remaining step on this process."""
        workers = self.training.workers
        if workers is None:
            workers = 0 if self.accelerator.device.type == "cpu" else min(8, os.cpu_count() or 1)
        stream = iter(
            self.parts.sources.stream(
                micro_batches=self.training.accumulate,
                rank=self.accelerator.process_index,
                world=self.accelerator.num_processes,
                start_step=self.session.step,
                steps=self.parts.steps,
                workers=workers,
            )
        )
        while batches := list(islice(stream, self.training.accumulate)):
            yield batches

    def _anyone(self, flag: bool) -> bool:
        """Whether any process raised its flag; all processes learn the same answer."""
        if self.accelerator.num_processes == 1:
            return flag
        raised = torch.tensor([int(flag)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(raised, "sum").item())

    def _line(self, report: StepReport, speed: float) -> dict[str, Any]:
        """One line of metrics.jsonl, the same on every process."""
        diagnostics = self.parts.rule.diagnostics
        return {
            "step": self.session.step,
            "seconds": self.session.seconds,
            "rows_per_second": speed,
            "lr": report.rate,
            "tasks": report.values(self.accelerator),
            "cosines": diagnostics.cosines,
            "norm": diagnostics.norm,
            **({} if diagnostics.harmed is None else {"harmed": diagnostics.harmed}),
        }
