"""The main job, end to end: check, train, compare with the teachers, leave a folder that anyone can load."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from rich.console import Console
from torch import nn

from distill_mtl.checks.before_training import batchnorm_warnings, run_check, try_one_batch
from distill_mtl.checks.teacher_check import Examined
from distill_mtl.data.batch import Batch
from distill_mtl.display import output
from distill_mtl.distillation.calibrate import calibrate_hints
from distill_mtl.distillation.objective import Objective
from distill_mtl.evaluation import Evaluation
from distill_mtl.recipe import Recipe, dump_recipe, load_recipe
from distill_mtl.training.environment import write_environment
from distill_mtl.training.finish import Examiner, finish
from distill_mtl.training.loop import Trainer
from distill_mtl.training.manifest import describe_teachers, read_precisions, write_teachers
from distill_mtl.training.parts import Parts, build, known_names
from distill_mtl.training.processes import start_accelerator
from distill_mtl.training.run_folder import RunFolder
from distill_mtl.training.session import Session
from distill_mtl.training.sitting import Sitting
from distill_mtl.training.targets import settle_targets

CALIBRATION_ROWS = 1024


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
        recipe = load_recipe(recipe, known=known_names())
    accelerator = start_accelerator(recipe.training)
    console = console or output()
    if not accelerator.is_main_process:
        console = Console(quiet=True)
    folder = RunFolder(Path(out) if out is not None else Path("runs") / (recipe.name or "run"))
    if resume and (begun := folder.targets()) is not None:
        recipe = settle_targets(recipe, begun)
    folder.refuse(dump_recipe(recipe), resume=resume, overwrite=overwrite)

    parts = build(recipe)
    if resume:
        folder.same_teachers(describe_teachers(recipe, parts.teachers))
    examined = run_check(parts, accelerator.device, console) if accelerator.is_main_process else {}
    precisions = _precisions(examined, folder, resume=resume)
    try_one_batch(parts, accelerator.device, slices=accelerator.num_processes * recipe.training.accumulate)
    if accelerator.is_main_process:
        folder.begin(dump_recipe(parts.recipe), resume=resume)
        write_environment(folder.environment, processes=accelerator.num_processes, balance=parts.balance)
        measured = {task: result.measured for task, result in examined.items()}
        scores = {task: None if found is None else found.score for task, found in measured.items()}
        write_teachers(folder.teachers, describe_teachers(recipe, parts.teachers), scores, precisions)
    accelerator.wait_for_everyone()
    for warning in batchnorm_warnings(
        parts.student, parts.sources, accelerator.device, accelerator.num_processes
    ):
        console.print(f"[yellow]{warning}[/yellow]", highlight=False)

    session = _train(parts, accelerator, folder, console, precisions, resume=resume)
    return finish(parts, session, folder, console)


def _precisions(examined: Mapping[str, Examined], folder: RunFolder, *, resume: bool) -> dict[str, str]:
    """The precision of each teacher's targets: as the run began, else what the first process found best, for all."""
    found = {task: result.precision for task, result in examined.items()}
    if resume:
        found |= read_precisions(folder.teachers)
    everyone = [found]
    broadcast_object_list(everyone)
    return everyone[0]


def _train(
    parts: Parts,
    accelerator: Accelerator,
    folder: RunFolder,
    console: Console,
    precisions: Mapping[str, str],
    *,
    resume: bool,
) -> Session:
    """Train from the last checkpoint, or from the beginning, to the last step."""
    teachers = parts.targets(precisions).to(accelerator.device)
    objective = Objective(parts.student, parts.lessons, parts.hints, parts.rule).to(accelerator.device)
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        objective = nn.SyncBatchNorm.convert_sync_batchnorm(objective)
    voices = parts.voices(teachers, objective.student, accelerator.autocast)
    trainer = Trainer(accelerator, objective, voices, parts.recipe, schedule=parts.schedule)
    session = Session(trainer, folder)
    if resume and session.restore():
        console.print(f"resuming after step {session.step} of {parts.steps}")
    else:
        samples = _calibration_rows(parts, accelerator)
        calibrate_hints(
            (batch.to(accelerator.device) for batch in samples), teachers, parts.lessons, parts.hints
        )
    if accelerator.is_main_process:
        folder.cut_metrics(session.step)
    examiner = Examiner(parts, session, console)
    Sitting(parts, session, folder, console, score=examiner.mean_delta).run()
    return session


def _calibration_rows(parts: Parts, accelerator: Accelerator) -> Iterator[Batch]:
    """Rows of every source, the same however many processes there are, in slices as small as training's."""
    training = parts.recipe.training
    steps = math.ceil(CALIBRATION_ROWS / training.batch_size)
    return parts.sources.preview(micro_batches=accelerator.num_processes * training.accumulate, steps=steps)
