"""The main job, end to end: check, train, compare with the teachers, leave a folder that anyone can load."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, overload

from accelerate import Accelerator
from accelerate.utils import gather_object
from rich.console import Console

from distill_mtl.checks.before_training import batchnorm_warnings, run_check, try_one_batch
from distill_mtl.checks.teacher_check import TeacherCheck
from distill_mtl.display import console_of
from distill_mtl.distillation.objective import Objective
from distill_mtl.distillation.term import calibrate_terms
from distill_mtl.errors import UserError, WriteError
from distill_mtl.evaluation import Comparison, Evaluation, delta_on, references
from distill_mtl.evaluation.comparison import ComparisonSettings, compare_with_progress, evaluation_set_of
from distill_mtl.evaluation.forecast.table import ForecastTable, digest_of
from distill_mtl.evaluation.result import StudentScore
from distill_mtl.evaluation.seeds import SeedRuns
from distill_mtl.evaluation.selection import Reference
from distill_mtl.evaluation.several_teachers import by_teacher
from distill_mtl.evaluation.student_scores import ValidationLooks, training_scores
from distill_mtl.files import refuse_full_disks, refuse_unwritable
from distill_mtl.jobs.arguments import as_recipe
from distill_mtl.jobs.run_artefacts import card_of, earlier_result, write_run_artefacts
from distill_mtl.jobs.seeds import distill_seeds
from distill_mtl.networks.weights import state_bytes
from distill_mtl.recipe import Recipe, dump_recipe
from distill_mtl.recipe.schema import task_of
from distill_mtl.remote_files import is_remote
from distill_mtl.report.console import print_summary
from distill_mtl.report.run_record import read_run
from distill_mtl.report.run_report import report_of
from distill_mtl.splits import Split
from distill_mtl.students.student_folder import SCORES, save_student
from distill_mtl.targets.facts import Teachers
from distill_mtl.targets.provider import TargetProvider
from distill_mtl.training.checkpoint import Session, run_bytes
from distill_mtl.training.find_rate import find_rate
from distill_mtl.training.loop import TrainingLoop, micro_batches
from distill_mtl.training.parts import Parts, build
from distill_mtl.training.processes import (
    as_trained,
    from_first_process,
    on_first_process,
    start_accelerator,
    start_processes,
)
from distill_mtl.training.run_bucket import RunBucket, naming_bucket
from distill_mtl.training.run_folder import (
    RunFolder,
    describe_teachers,
    read_precisions,
    write_environment,
    write_teachers,
)
from distill_mtl.training.step import Trainer

CALIBRATION_ROWS = 1024
# Rules that need teachers mean nothing without them, so the rule is chosen anew.
LABELS_ONLY = ("training.teachers_on=none", "balance=auto")


@overload
def distill(
    recipe: Recipe | Path | str,
    overrides: Sequence[str] = ...,
    *,
    out: Path | str | None = ...,
    resume: bool = ...,
    auto_resume: bool = ...,
    overwrite: bool = ...,
    labels_only: bool = ...,
    console: Console | None = ...,
) -> Evaluation: ...


@overload
def distill(
    recipe: Recipe | Path | str,
    overrides: Sequence[str] = ...,
    *,
    seeds: int,
    out: Path | str | None = ...,
    resume: bool = ...,
    auto_resume: bool = ...,
    overwrite: bool = ...,
    labels_only: bool = ...,
    console: Console | None = ...,
) -> SeedRuns: ...


def distill(
    recipe: Recipe | Path | str,
    overrides: Sequence[str] = (),
    *,
    seeds: int | None = None,
    out: Path | str | None = None,
    resume: bool = False,
    auto_resume: bool = False,
    overwrite: bool = False,
    labels_only: bool = False,
    console: Console | None = None,
) -> Evaluation | SeedRuns:
    """Merge the trained teachers of a recipe into one multi-task student and compare it with them.

    Args:
        recipe: the recipe, a YAML file.
        overrides (--set KEY=VALUE, repeated): override any key, as often as you like:
            --set tasks.breed.temperature=2
        seeds (N): train with N seeds in turn, into OUT/seed-0, OUT/seed-1 and so on, and print the mean of the deltas
            with its spread and an interval over rows and seeds. The teachers are checked once.
        out (DIR|URL): run folder, or one in a bucket (s3://bucket/runs/pets); default runs/NAME.
        resume: continue from the run folder's last checkpoint; of several seeds finished ones are kept.
        auto_resume: as --resume where the run was begun, else begin it: for schedulers, which start the same command
            again.
        overwrite: delete the run that is in the run folder, or the runs of all seeds.
        labels_only: train without teachers, as a baseline (training.teachers_on=none, balance=auto).
        console: where progress is shown; default standard output of the first process.

    Returns:
        The comparison that was printed and written to results.json; of several seeds all of them.

    Raises:
        UserError: the recipe, the data or a teacher is wrong; nothing was lost.
        Stopped: Ctrl-C or SIGTERM arrived; a checkpoint was written.
        KeyboardInterrupt: interrupted. A run that had begun to train continues with --resume.

    Examples:
        Two processes on the CPU:
          ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 --main_process_port 0 \\
              distill.py RECIPE

        How far another seed moves the result:
          distill-mtl distill RECIPE --seeds 3

        To look before training: distill-mtl check RECIPE.
    """
    if (resume or auto_resume) and overwrite:
        option = "--resume" if resume else "--auto-resume"
        raise UserError(f"{option} continues the run, --overwrite deletes it. Choose one.")
    recipe = as_recipe(recipe, [*overrides, *(LABELS_ONLY if labels_only else ())])
    state = start_processes()
    console = console_of(console, first=state.is_main_process)
    place = out if out is not None else Path("runs") / (recipe.name or "run")
    if seeds is not None:
        return distill_seeds(
            recipe,
            place,
            seeds,
            _run,
            resume=resume,
            auto_resume=auto_resume,
            overwrite=overwrite,
            console=console,
        )
    with _folder(place) as folder:
        if auto_resume:
            resume = from_first_process(folder.recipe.exists())
        return _run(recipe, folder, console, resume=resume, overwrite=overwrite)[0]


@contextmanager
def _folder(out: Path | str) -> Iterator[RunFolder]:
    """The run folder for the run. One in a bucket stands as it was committed last, on every machine.

    Raises:
        UserError: it cannot be written to, or another command of this machine uses it.
    """
    if not is_remote(out):
        folder = RunFolder(Path(out))
        on_first_process(lambda: refuse_unwritable(folder.path, "--out", folder=True))
        yield folder
        return
    bucket = RunBucket(str(out))
    with bucket.in_use(), naming_bucket(bucket):
        on_first_process(bucket.refuse_unwritable)
        bucket.bring()
        start_processes().wait_for_everyone()  # what is not committed is deleted: nobody writes before that
        yield RunFolder(bucket.folder, bucket)


def _run(
    recipe: Recipe,
    folder: RunFolder,
    console: Console,
    *,
    resume: bool,
    overwrite: bool,
    checked: Mapping[str, TeacherCheck] | None = None,
    forecasts: Path | None = None,
) -> tuple[Evaluation, Mapping[str, TeacherCheck]]:
    """The run, once it is known where it goes.

    Args:
        recipe: of it.
        folder: where it goes.
        console: where progress is shown.
        resume, overwrite: as of `distill`.
        checked: what the check of a run with the same data and teachers found; None: they are checked now.
        forecasts: folder of the forecasts; default the one that the run's folder lies in.

    Returns:
        The comparison, and what the check found, on the first process.
    """
    digest = digest_of(recipe)
    if resume:
        recipe = folder.decided(recipe)
    folder.refuse(dump_recipe(recipe), resume=resume, overwrite=overwrite)
    start_processes().wait_for_everyone()  # all have looked at the folder before one writes to it

    parts = build(recipe)
    accelerator = start_accelerator(parts.recipe.training)
    parts.sources.refuse_processes(accelerator.num_processes, recipe.training.accumulate)
    needed = run_bytes(state_bytes(parts.student), recipe.training, begun=resume)
    refuse_full_disks({folder.path: needed}, f"--out {folder.path}")
    if resume:
        folder.same_teachers(describe_teachers(recipe, parts.teachers))
        folder.same_shards(parts.sources.streamed())
    examined = checked
    if examined is None:
        examined = on_first_process(lambda: run_check(parts, accelerator.device, console)) or {}
    precisions = _precisions(examined, folder, resume=resume)
    try_one_batch(parts, accelerator.device, slices=accelerator.num_processes * recipe.training.accumulate)
    if accelerator.is_main_process:
        folder.begin(dump_recipe(parts.recipe), resume=resume)
        write_environment(folder.environment, processes=accelerator.num_processes, balance=parts.balance)
        measured = {task: result.measured for task, result in examined.items()}
        scores = {task: None if found is None else found.score for task, found in measured.items()}
        write_teachers(folder.teachers, describe_teachers(recipe, parts.teachers), scores, precisions)
        folder.note_shards(parts.sources.streamed())
        folder.commit()
    accelerator.wait_for_everyone()
    for warning in batchnorm_warnings(
        parts.student, parts.sources, accelerator.device, accelerator.num_processes
    ):
        console.print(warning, style="yellow", highlight=False, markup=False)

    parts, session = _train(parts, accelerator, folder, console, precisions, resume=resume)
    try:
        evaluation = _finish(parts, session, folder, console)
    except WriteError as error:
        raise UserError(
            f"{error} Every step is kept in {folder.checkpoints}: finish with --resume."
        ) from error
    if accelerator.is_main_process:
        _note_outcome(ForecastTable(forecasts or folder.path.parent), digest, folder, evaluation, console)
    return evaluation, examined


def _note_outcome(
    table: ForecastTable, digest: str, folder: RunFolder, evaluation: Evaluation, console: Console
) -> None:
    """Write what came out beside what was forecast, if this recipe was; the run is finished whether it succeeds or
    not."""
    try:
        line = table.note_outcome(digest, folder.path, evaluation)
    except UserError as error:
        console.print(f"the forecast is not compared with the run: {error}", style="yellow", soft_wrap=True)
        return
    if line is not None:
        held = sum(task.held for task in line.tasks.values())
        console.print(f"forecast: {held} of {len(line.tasks)} tasks ended in their 80 % interval")


def _precisions(examined: Mapping[str, TeacherCheck], folder: RunFolder, *, resume: bool) -> dict[str, str]:
    """The precision of each teacher's targets: as the run began, else what the first process found best, for all."""
    found = {task: result.precision for task, result in examined.items()}
    if resume:
        found |= read_precisions(folder.teachers)
    return from_first_process(found)


def _train(
    parts: Parts,
    accelerator: Accelerator,
    folder: RunFolder,
    console: Console,
    precisions: Mapping[str, str],
    *,
    resume: bool,
) -> tuple[Parts, Session]:
    """Train from the last checkpoint, or from the beginning, to the last step. The parts have the rate of the run."""
    teachers = parts.targets(precisions).to(accelerator.device)
    session = open_session(parts, accelerator, folder, teachers)
    if resume and (refused := session.restore()) is not None:
        for finding in refused:
            said = f"{finding}; going back to the one before"
            console.print(said, style="yellow", markup=False, highlight=False, soft_wrap=True)
        console.print(f"resuming after step {session.step} of {parts.steps}")
    else:
        calibrate(parts, accelerator, teachers)
        if parts.recipe.optimizer.lr == "auto":
            parts = _with_rate(parts, session, folder, console)
    if accelerator.is_main_process:
        folder.cut_metrics(session.step)
    comparison = StudentComparison(parts, session, console)
    looks = ValidationLooks(
        parts.sources,
        parts.kinds,
        parts.recipe,
        parts.steps,
        processes=accelerator.num_processes,
        device=accelerator.device,
    )
    loop = TrainingLoop(
        parts,
        session,
        folder,
        console,
        score=comparison.mean_delta,
        look=lambda: looks.scores(session.student) if accelerator.is_main_process else {},
        look_after=looks.after,
    )
    loop.run()
    return parts, session


def open_session(
    parts: Parts, accelerator: Accelerator, folder: RunFolder, teachers: TargetProvider
) -> Session:
    """A session before its first step, its loss terms not calibrated yet.

    Args:
        parts: of the run.
        accelerator: that trains.
        folder: of the run.
        teachers: targets of training, on the accelerator's device.
    """
    objective = Objective(parts.student, parts.loss_configs, parts.terms, parts.rule).to(accelerator.device)
    objective = as_trained(objective)
    providers = parts.providers(teachers, objective.student, accelerator.autocast)
    return Session(Trainer(accelerator, objective, providers, parts.recipe, schedule=parts.schedule), folder)


def calibrate(parts: Parts, accelerator: Accelerator, teachers: TargetProvider) -> None:
    """Calibrate the loss terms on rows of every source, the same however many processes there are."""
    training = parts.recipe.training
    steps = math.ceil(CALIBRATION_ROWS / training.batch_size)
    # In slices as small as training's.
    rows = parts.sources.preview(micro_batches=accelerator.num_processes * training.accumulate, steps=steps)
    samples = (batch.to(accelerator.device) for batch in rows)
    calibrate_terms(samples, teachers, parts.loss_configs, parts.terms)


def _with_rate(parts: Parts, session: Session, folder: RunFolder, console: Console) -> Parts:
    """The parts with the rate that a search finds, which the trainer takes and the resolved recipe tells."""
    trainer = session.trainer
    search = find_rate(session, micro_batches(parts, trainer.accelerator, range(parts.steps)))
    optimizer = parts.recipe.optimizer.model_copy(update={"lr": search.lr})
    parts = replace(parts, recipe=parts.recipe.model_copy(update={"optimizer": optimizer}))
    trainer.lr = search.lr
    console.print(str(search), highlight=False)
    if trainer.accelerator.is_main_process:
        folder.note_rate(dump_recipe(parts.recipe), str(search), search.curve)
    trainer.accelerator.wait_for_everyone()
    return parts


class StudentComparison:
    """Compares the student of a session with its teachers, along the way and at the end.

    Args:
        parts: of the run.
        session: whose student is compared.
        console: where progress is shown.
    """

    def __init__(self, parts: Parts, session: Session, console: Console) -> None:
        self.parts, self.session, self.console = parts, session, console

    def mean_delta(self) -> float:
        """Mean over tasks of the student's lead on the validation rows (`delta_on`); what `select: best`
        maximises."""
        self.session.synchronise()
        deltas = delta_on(by_teacher(self.on("validation")), self._references)
        return sum(deltas.values()) / len(deltas)

    def compare(self) -> Evaluation:
        """The comparison on the test rows."""
        self.session.synchronise()
        settings = ComparisonSettings.of(self.parts.recipe)
        found = compare_with_progress(self.on("test"), settings, self.console)
        acceptance = replace(found.acceptance, gate=self.parts.recipe.acceptance.gate)
        return found.changed(steps=self.session.step, seconds=self.session.seconds, acceptance=acceptance)

    def on_training_rows(self, most: Mapping[str, int]) -> dict[str, StudentScore]:
        """The student on at most so many training rows of each task; for one process alone."""
        sources, kinds, recipe = self.parts.sources, self.parts.kinds, self.parts.recipe
        device = self.session.trainer.accelerator.device
        return training_scores(self.session.student, sources, kinds, recipe, most=most, device=device)

    def on(self, split: Split) -> Comparison:
        """Student and teachers on the rows of a set, shared by the processes."""
        rows = evaluation_set_of(self.parts.sources, split, ComparisonSettings.of(self.parts.recipe))
        kinds, ensembles = self.parts.kinds, self.parts.ensembles
        return Comparison(self.session.student, self._teachers, kinds, rows, ensembles)

    @cached_property
    def _teachers(self) -> Teachers:
        """On the device; with cached targets they are loaded here, when training is over."""
        for teacher in self.parts.teachers.values():
            teacher.to(self.session.trainer.accelerator.device)
        return self.parts.teachers

    @cached_property
    def _references(self) -> dict[str, Reference]:
        compared = by_teacher(self.on("validation"))
        return references(compared.teachers, compared.kinds, compared.rows)


def _finish(parts: Parts, session: Session, folder: RunFolder, console: Console) -> Evaluation:
    """Save the student, compare it, complete its model card, write results.json, pictures and report, show the table.

    The student is saved before anything can go wrong with the test rows.
    """
    accelerator = session.trainer.accelerator
    if parts.recipe.training.select == "best":
        session.take_best()
    if accelerator.is_main_process:
        save_student(session.student, folder.student, card=_card(parts, folder, None), extra=_extra(parts))
    comparison = StudentComparison(parts, session, console)
    evaluation = comparison.compare()
    if (earlier := earlier_result(folder.results, console)) is not None:
        evaluation = evaluation.changed(baselines=earlier.baselines)
    skipped = _skipped_anywhere(parts, accelerator)
    if accelerator.is_main_process:
        rows = {task: result.rows for task, result in evaluation.tasks.items()}
        evaluation = evaluation.changed(training_rows=comparison.on_training_rows(rows))
        extra = _extra(parts) | {SCORES: recorded_scores(evaluation)}
        save_student(session.student, folder.student, card=_card(parts, folder, evaluation), extra=extra)
        report = write_run_artefacts(folder, evaluation, comparison.on("test"))
        folder.commit()
        for source, count in skipped.items():
            said = f"{count} corrupt rows of data.{source} were replaced by their next row"
            console.print(said, style="yellow")
        console.print(f"run folder: {folder.place}", highlight=False, soft_wrap=True)
        console.print(f"report: {folder.place}/{report.name}\n", highlight=False, soft_wrap=True)
        print_summary(console, report_of(read_run(folder.path)))
    accelerator.wait_for_everyone()
    return evaluation


def recorded_scores(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """What a student's config keeps of its table: what it must score again where it is a teacher itself."""
    return {
        task: {
            "metric": result.metric,
            "score": result.student,
            "rows": result.rows,
            "measured_on": f"{evaluation.split} rows",
        }
        for task, result in evaluation.tasks.items()
        if not result.unmeasured and task_of(task) == task
    }


def _skipped_anywhere(parts: Parts, accelerator: Accelerator) -> dict[str, int]:
    """Rows that could not be decoded since the last start, by source, over all processes."""
    mine = Counter(parts.sources.skipped)
    everyone = gather_object([mine]) if accelerator.num_processes > 1 else [mine]
    return {source: count for source, count in sum(everyone, Counter()).items() if count}


def _extra(parts: Parts) -> dict[str, Any]:
    """What `distill-mtl predict` must know to show the student pictures as evaluation did."""
    ways = {source.resize for source in parts.recipe.data.values() if source.labels}
    return {"resize": ways.pop()} if len(ways) == 1 else {}


def _card(parts: Parts, folder: RunFolder, evaluation: Evaluation | None) -> str:
    trunk, cards = parts.student.trunk, parts.teachers.cards
    return card_of(folder, parts.recipe, trunk, parts.kinds, cards, evaluation)
