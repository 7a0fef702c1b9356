"""Compare the student of a finished run with its teachers again: `evaluate("runs/NAME")`.

What to tell who gave `evaluate` something else than the folder of a finished run.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from accelerate import PartialState
from rich.console import Console

from distill_mtl.display import output
from distill_mtl.errors import UserError, nearest
from distill_mtl.evaluation import Evaluation
from distill_mtl.evaluation.comparison import ComparisonSettings, compare_with_progress, evaluation_set_of
from distill_mtl.evaluation.verdict import AcceptanceRule
from distill_mtl.files import write_text
from distill_mtl.jobs.run_artefacts import card_of, earlier_result, write_run_artefacts
from distill_mtl.jobs.trained_baselines import measure_baselines, open_baselines, train_baselines
from distill_mtl.networks.weights import CARD
from distill_mtl.recipe import load_recipe
from distill_mtl.report.console import console_table
from distill_mtl.run_files import RunFiles
from distill_mtl.students.student_folder import load_student
from distill_mtl.training.parts import build_sources, build_teachers
from distill_mtl.training.processes import start_processes
from distill_mtl.training.run_folder import RunFolder

Margins = float | Mapping[str, float] | None
"""Largest loss allowed, for all tasks or by task; None: as the recipe says."""


def evaluate(
    folder: Path | str,
    *,
    baselines: Sequence[str] = (),
    acceptance: Margins = None,
    rule: AcceptanceRule | None = None,
    write: bool = False,
    to: Path | None = None,
    trust: bool = False,
    console: Console | None = None,
) -> Evaluation:
    """Measure `folder/student` against the teachers on the test rows that the run's recipe names.

    Prints the table. Several processes that were launched together share the rows, and find the same.

    Args:
        folder: a run folder with a finished student.
        baselines: `labels_only` and `single_task`, which are trained where they are not there yet, and places of
            models; measured on the same rows.
        acceptance: in place of the recipe's margins.
        rule: in place of the recipe's.
        write: replace the run's results.json, and what shows it: pictures, report, and the student's model card;
            with baselines this is always so. Baselines that were measured earlier stay.
        to: a file that the results are written to as well.
        trust: let models among the baselines run code.
        console: where to show progress; default standard output.

    Raises:
        UserError: the folder holds no finished run, data or a teacher of its recipe is gone, a baseline cannot be
            opened, or a margin is below 0 or for no task.
        Stopped: Ctrl-C or SIGTERM arrived while a baseline was trained.
    """
    run = RunFolder(Path(folder))
    refuse_no_run(run)
    recipe = load_recipe(run.recipe)
    state, console = shared_console(console)
    settings = with_acceptance(ComparisonSettings.of(recipe), list(recipe.tasks), acceptance, rule)
    teachers, kinds = build_teachers(recipe)
    opened = open_baselines(baselines, kinds, trust=trust)
    earlier = earlier_result(run.results, console)
    train_baselines(run, recipe, baselines, earlier, console)
    student = load_student(run.student, trust=any(section.trust for section in recipe.tasks.values()))
    sources = build_sources(
        recipe, kinds, [student.student.trunk.inputs, *(card.inputs for card in teachers.cards.values())]
    )
    for network in (student, *teachers.values()):
        network.to(state.device)
    evaluation_set = evaluation_set_of(sources, "test", settings)
    found = compare_with_progress(student, teachers, kinds, evaluation_set, settings, console)
    measured = measure_baselines(run, baselines, opened, teachers, kinds, evaluation_set, recipe, console)
    if earlier is not None:
        measured = earlier.baselines | measured
        found = found.changed(steps=earlier.steps, seconds=earlier.seconds)
    found = found.changed(baselines=measured)
    if state.is_main_process:
        if write or baselines:
            write_run_artefacts(run, found, student, teachers, kinds, evaluation_set)
            card = card_of(run, recipe, student.student.trunk, kinds, teachers.cards, found)
            write_text(run.student / CARD, card)
        if to is not None:
            found.write(to)
        console.print(console_table(found))
    state.wait_for_everyone()
    return found


def shared_console(console: Console | None) -> tuple[PartialState, Console]:
    """The processes that were launched together, and where they print: the first one alone."""
    state = start_processes()
    return state, (console or output()) if state.is_main_process else Console(quiet=True)


def with_acceptance(
    settings: ComparisonSettings, tasks: Sequence[str], acceptance: Margins, rule: AcceptanceRule | None
) -> ComparisonSettings:
    """The settings with other margins, or another rule; None: their own.

    Raises:
        UserError: a margin for no task, or one below 0.
    """
    said = acceptance if isinstance(acceptance, Mapping) else {}
    if acceptance is not None and not isinstance(acceptance, Mapping):
        said = dict.fromkeys(tasks, acceptance)
    for task, margin in said.items():
        if not 0 <= margin < math.inf:
            raise UserError(f"--acceptance {task}={margin}: a margin is how much may be lost, 0 or more.")
        if task not in tasks:
            raise UserError(
                f"--acceptance: there is no task '{task}'.{nearest(task, tasks)} Tasks: {', '.join(tasks)}."
            )
    section = settings.acceptance
    changed = {"margin": {**section.margin, **said}, "rule": rule or section.rule}
    return replace(settings, acceptance=section.model_copy(update=changed))


def refuse_no_run(run: RunFiles) -> None:
    """Refuse what is no folder of a finished run.

    Raises:
        UserError: the path is not there, is a file, is the student of a run, or holds no recipe or no student.
    """
    path = run.path
    owner = RunFiles(path.resolve().parent)
    if not path.exists():
        beside = path.parent
        there = [str(each) for each in beside.iterdir() if each.is_dir()] if beside.is_dir() else []
        raise UserError(
            f"there is no run folder {path}.{nearest(str(path), there)} Give a folder like runs/NAME."
        )
    if not path.is_dir():
        raise UserError(
            f"{path} is a file, and no run folder. Compare a model's file with "
            f"`distill-mtl evaluate --student {path} --against RUN --data SHARDS`."
        )
    if owner.student == path.resolve() and owner.recipe.exists():
        raise UserError(f"{path} is the student of {path.parent}: give {path.parent}.")
    for needed in (run.recipe, run.student):
        if not needed.exists():
            raise UserError(
                f"{path} holds no finished run: there is no {needed.name}. Give a folder like runs/NAME."
            )
