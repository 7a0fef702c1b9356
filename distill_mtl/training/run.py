"""The main job, end to end: check, train, compare with the teachers, leave a folder that anyone can load."""

import math
from collections.abc import Iterator
from pathlib import Path

from accelerate import Accelerator
from rich.console import Console
from torch import nn

from distill_mtl.assembly.build import Parts, build, known_names
from distill_mtl.assembly.processes import start_accelerator
from distill_mtl.assembly.targets import settle_targets
from distill_mtl.checks.check import run_check
from distill_mtl.checks.one_batch import try_one_batch
from distill_mtl.data.batch import Batch
from distill_mtl.distillation.calibrate import calibrate_hints
from distill_mtl.distillation.objective import Objective
from distill_mtl.evaluation import Evaluation
from distill_mtl.recipe import Recipe, dump_recipe, load_recipe
from distill_mtl.training.finish import finish
from distill_mtl.training.loop import Trainer
from distill_mtl.training.manifest import write_teachers
from distill_mtl.training.run_folder import RunFolder
from distill_mtl.training.session import Session
from distill_mtl.training.sitting import Sitting

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
        recipe = load_recipe(recipe, choices=known_names())
    accelerator = start_accelerator(recipe.training)
    console = console or Console()
    if not accelerator.is_main_process:
        console = Console(quiet=True)
    folder = RunFolder(Path(out) if out is not None else Path("runs") / (recipe.name or "run"))
    if resume and (begun := folder.targets()) is not None:
        recipe = settle_targets(recipe, begun)
    folder.refuse(dump_recipe(recipe), resume=resume, overwrite=overwrite)

    parts = build(recipe)
    if resume:
        folder.same_teachers({task: teacher.describe() for task, teacher in parts.teachers.items()})
    scores = run_check(parts, accelerator.device, console) if accelerator.is_main_process else {}
    try_one_batch(parts, accelerator.device, slices=accelerator.num_processes * recipe.training.accumulate)
    if accelerator.is_main_process:
        folder.begin(dump_recipe(parts.recipe), resume=resume)
        write_teachers(folder.teachers, parts.teachers, scores)
    accelerator.wait_for_everyone()
    _warn_of_local_batchnorm(parts, accelerator, console)

    session = _train(parts, accelerator, folder, console, resume=resume)
    return finish(parts, session, folder, console)


def _train(
    parts: Parts, accelerator: Accelerator, folder: RunFolder, console: Console, *, resume: bool
) -> Session:
    """Train from the last checkpoint, or from the beginning, to the last step."""
    teachers = parts.targets().to(accelerator.device)
    objective = Objective(parts.student, parts.lessons, parts.hints, parts.rule).to(accelerator.device)
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        objective = nn.SyncBatchNorm.convert_sync_batchnorm(objective)
    session = Session(Trainer(accelerator, objective, teachers, parts.recipe, steps=parts.steps), folder)
    if resume and session.restore():
        console.print(f"resuming after step {session.step} of {parts.steps}")
    else:
        samples = _calibration_rows(parts, accelerator)
        calibrate_hints(
            (batch.to(accelerator.device) for batch in samples), teachers, parts.lessons, parts.hints
        )
    if accelerator.is_main_process:
        folder.cut_metrics(session.step)
    Sitting(parts, session, folder, console).run()
    return session


def _calibration_rows(parts: Parts, accelerator: Accelerator) -> Iterator[Batch]:
    """The rows of the first steps, the same however many processes there are, in slices as small as training's."""
    training = parts.recipe.training
    steps = math.ceil(CALIBRATION_ROWS / training.batch_size)
    return parts.sources.stream(micro_batches=accelerator.num_processes * training.accumulate, steps=steps)


def _warn_of_local_batchnorm(parts: Parts, accelerator: Accelerator, console: Console) -> None:
    local = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in parts.student.modules())
    if local and accelerator.num_processes > 1 and accelerator.device.type == "cpu":
        console.print(
            "[yellow]the student has BatchNorm, whose statistics are local to a process on the CPU: this run is not "
            "the same as one of a single process. For an exact one choose a student without it, such as "
            "--set student.args.norm_layer=groupnorm1.[/yellow]"
        )
