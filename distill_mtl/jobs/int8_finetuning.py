"""`export --int8 --finetune STEPS`: a run's student is trained on for a while, in 8 bits, before it is exported.

It is the run's own training (recipe, data, targets, losses, rule, optimizer) for a few more steps at a low rate, and
without hints, whose adapters no run leaves. What it leaves lies in RUN/for-int8, a run folder of its own, and serves
every later export with as many steps.
"""

import shutil
from dataclasses import replace
from typing import Any

from rich.console import Console

from distill_mtl.distillation.term import TERMS
from distill_mtl.errors import ExportError, Stopped, UserError
from distill_mtl.evaluation import Evaluation
from distill_mtl.export.export_format import StudentSource
from distill_mtl.files import refuse_full_disks
from distill_mtl.networks.weights import CONFIG, WEIGHTS, read_config, sha256, state_bytes
from distill_mtl.recipe import Recipe, dump_recipe, load_recipe
from distill_mtl.recipe.schema import TaskSection
from distill_mtl.report import words
from distill_mtl.run_notes import read_teachers
from distill_mtl.students.initial_weights import find_initial_student
from distill_mtl.students.student_folder import save_student
from distill_mtl.training.checkpoint import Session, run_bytes
from distill_mtl.training.fake_quantisation import FakeQuantisation, QuantisedObjective
from distill_mtl.training.loop import TrainingLoop
from distill_mtl.training.loss_terms import admit_terms
from distill_mtl.training.parts import build
from distill_mtl.training.processes import start_accelerator
from distill_mtl.training.run_folder import RunFolder, read_precisions, write_teachers
from distill_mtl.training.step import Trainer

RATE = 0.03
"""Highest rate, as a share of the run's."""
OBSERVED = 256
"""Training rows that show what reaches each layer."""
MOST_STEPS = 1000
"""That may be asked for; of a run of more steps as many as it was trained for: more is another run."""
_FP32 = "fp32"


def finetuned_for_int8(source: StudentSource, steps: int, console: Console) -> StudentSource:
    """The student after so many steps in 8 bits; trained here, unless an earlier export has done it.

    Args:
        source: a run's student.
        steps: of training.
        console: where progress is shown.

    Raises:
        ExportError: the student lies in no run, or the steps are more than `MOST_STEPS` and those of the run.
        UserError: the recipe's data or teachers are gone.
        Stopped: Ctrl-C or SIGTERM; a checkpoint was written, from which the same command continues.
    """
    if source.recipe is None:
        raise ExportError(
            f"--finetune: {source.folder} lies in no run, whose recipe says on what to train. Leave out --finetune."
        )
    run = RunFolder(source.run)
    _refuse_many(run, steps, console)
    folder = RunFolder(run.for_int8)
    recipe = load_recipe(source.recipe)
    admit_terms(recipe)
    recipe = finetuning_recipe(recipe, steps)
    weights = sha256(source.folder / WEIGHTS)
    begun = _begun(folder, recipe, weights)
    if begun and (folder.student / CONFIG).is_file():
        console.print(f"fine-tuned for 8 bits already: {folder.student}", highlight=False, soft_wrap=True)
    else:
        _train(source, recipe, folder, console, weights, resume=begun)
    return replace(source, folder=folder.student, trained=source.folder)


def _refuse_many(run: RunFolder, steps: int, console: Console) -> None:
    """Refuse more steps than `MOST_STEPS` and the run had, and say about how long they take, if the run tells."""
    done = Evaluation.read(run.results) if run.results.exists() else None
    trained, seconds = (None, None) if done is None else (done.steps, done.seconds)
    most = max(MOST_STEPS, trained or 0)
    if steps > most:
        raise ExportError(
            f"--finetune {steps}: expected at most {most:,} steps"
            + (f"; the run itself was trained for {trained:,}." if trained else ".")
            + " It is meant to be short: docs/export.md shows what 60 steps do."
        )
    if trained and seconds:
        console.print(
            f"fine-tuning for 8 bits: {steps:,} steps; as many of the run itself took "
            f"{words.duration(seconds / trained * steps)}",
            highlight=False,
            soft_wrap=True,
        )


def finetuning_recipe(recipe: Recipe, steps: int) -> Recipe:
    """The recipe of a run, for some steps from its student on.

    Args:
        recipe: as resolved.
        steps: of training.
    """
    # An older student says more than weights: which parts are frozen. Other initial weights are replaced anyway.
    older = find_initial_student(recipe.student.init) is not None
    # A run that let its teachers fall silent beside labels has come to the end of that.
    on = recipe.training.teachers_on
    training: dict[str, Any] = {
        "teachers_on": "missing" if on == "annealed" else on,
        "steps": steps,
        "epochs": None,
        "precision": "fp32",
        "ema": None,
        "select": "last",
        "trackers": [],
    }
    return recipe.model_copy(
        update={
            "student": recipe.student if older else recipe.student.model_copy(update={"init": "random"}),
            "tasks": {task: _without_hints(section, older) for task, section in recipe.tasks.items()},
            "schedule": [],
            "training": recipe.training.model_copy(update=training),
        }
    )


def _without_hints(section: TaskSection, older: bool) -> TaskSection:
    """The task's losses without terms on layers, whose pairs stay: a cache is known by them.

    The student in fp32 teaches each task, also one that has no other teacher.
    """
    names = {*TERMS.names(), *section.weights}
    layered = {name: 0.0 for name in names if TERMS[name].uses_layers}
    soft = section.weights.get("soft_targets", 1.0) or 1.0
    head = section.head if older else section.head.model_copy(update={"init": None})
    return section.model_copy(
        update={"weights": section.weights | layered | {"soft_targets": soft}, "head": head}
    )


def _begun(folder: RunFolder, recipe: Recipe, weights: str) -> bool:
    """Whether the folder holds this very training, whole or in part.

    Args:
        folder: of the training.
        recipe: its recipe.
        weights: sha256 of those that it begins with.
    """
    try:
        if not folder.recipe.exists() or read_teachers(folder.teachers)[_FP32]["sha256"] != weights:
            return False
        folder.refuse(dump_recipe(recipe), resume=True, overwrite=False)
    except (UserError, KeyError):
        return False
    return True


def _train(
    source: StudentSource, recipe: Recipe, folder: RunFolder, console: Console, weights: str, *, resume: bool
) -> None:
    """Train from the last checkpoint, or from the beginning, and leave the student."""
    parts = build(recipe)
    trained = source.load().student
    parts.student.load_state_dict(trained.state_dict())
    parts.student.trunk.preprocess = trained.trunk.preprocess
    refuse_full_disks(
        {folder.path: run_bytes(state_bytes(parts.student), recipe.training, begun=resume)}, "--finetune"
    )
    if not resume:
        folder.begin(dump_recipe(recipe), resume=False)
        fp32 = {_FP32: {"file": str(source.folder / WEIGHTS), "sha256": weights}}
        write_teachers(folder.teachers, fp32, {}, {})
    accelerator = start_accelerator(parts.recipe.training)
    device, rows = accelerator.device, recipe.training.batch_size
    quantisation = FakeQuantisation(parts.student.to(device))
    observed = parts.sources.preview(micro_batches=recipe.training.accumulate, steps=-(-OBSERVED // rows))
    quantisation.observe(batch.to(device).images for batch in observed)
    objective = QuantisedObjective(
        parts.student,
        parts.loss_configs,
        parts.terms,
        parts.rule,
        fp32=trained.to(device),
        quantisation=quantisation,
        rows=rows,
    ).to(device)
    teachers = parts.targets(read_precisions(RunFolder(source.run).teachers)).to(device)
    providers = parts.providers(teachers, parts.student, accelerator.autocast)
    trainer = Trainer(accelerator, objective, providers, parts.recipe, schedule=parts.schedule)
    trainer.lr *= RATE
    session = Session(trainer, folder)
    if resume and session.restore() is not None:
        console.print(f"fine-tuning goes on after step {session.step} of {parts.steps}", highlight=False)
    folder.cut_metrics(session.step)
    try:
        TrainingLoop(parts, session, folder, console, score=lambda: 0.0).run()
    except Stopped as stopped:
        raise type(stopped)(
            f"stopped after step {session.step} of {parts.steps} of fine-tuning, and nothing was exported. "
            "The same command continues."
        ) from stopped
    extra = read_config(source.folder).get("extra", {})
    save_student(
        session.student, folder.student, extra={"resize": extra["resize"]} if "resize" in extra else {}
    )
    shutil.rmtree(folder.checkpoints, ignore_errors=True)
