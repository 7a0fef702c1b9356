"""What a comparison leaves in the run folder: results.json, pictures, the student's model card, the report.

The end of a run and `distill-mtl evaluate --write` write the same, so that none of these tells of another comparison.

Student against teachers on some rows, with a bar: at the end of a run, and again whenever one asks.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from accelerate import PartialState
from rich.console import Console
from torch import nn

from distill_mtl.data import Sources
from distill_mtl.display import Display
from distill_mtl.evaluation import Evaluation, Processes, View, evaluate
from distill_mtl.evaluation.card import model_card
from distill_mtl.evaluation.compare import compare
from distill_mtl.evaluation.examples import examples, examples_of
from distill_mtl.evaluation.results import TaskResult
from distill_mtl.evaluation.rows import Student, Teacher
from distill_mtl.evaluation.sheet import picture_sheet
from distill_mtl.jobs.report import write_report
from distill_mtl.recipe import Recipe
from distill_mtl.report.pictures import write_gallery
from distill_mtl.splits import Split
from distill_mtl.students.trunk import Trunk
from distill_mtl.tasks.base import TaskKind
from distill_mtl.teachers.card import TeacherCard
from distill_mtl.training.run_folder import RunFolder

_PICTURED = 24  # disagreements over all tasks: a page of one or two megabytes


def write_evidence(
    folder: RunFolder,
    evaluation: Evaluation,
    student: Student,
    teachers: Mapping[str, Teacher],
    kinds: Mapping[str, TaskKind],
    view: View,
) -> Path:
    """Write all but the model card, which lies with the weights; for one process alone.

    Args:
        folder: of the run.
        evaluation: of the student on the rows of the view.
        student, teachers: on the view's device.
        kinds: the tasks.
        view: the rows.

    Returns:
        The report.
    """
    evaluation.write(folder.results)
    few = max(2, _PICTURED // len(evaluation.tasks))
    keys = {
        task: [row.key for row in result.disagreements[:few]] for task, result in evaluation.tasks.items()
    }
    asked = student, teachers, kinds, view
    samples = examples(*asked)
    legends = {task: kind.legend() for task, kind in kinds.items()}
    picture_sheet(samples, legends).save(folder.pictures)
    write_gallery(folder.examples, disagreements=examples_of(keys, *asked), samples=samples, legends=legends)
    return write_report(folder.path)


def card_of(
    folder: RunFolder,
    recipe: Recipe,
    trunk: Trunk,
    kinds: Mapping[str, TaskKind],
    teachers: Mapping[str, TeacherCard],
    evaluation: Evaluation | None = None,
) -> str:
    """Text of the model card of a run's student.

    Args:
        folder: of the run, which holds its resolved recipe.
        recipe: of the run.
        trunk: of the student.
        kinds: the tasks.
        teachers: by task; a task may have none.
        evaluation: whose table it shows; None: no table yet.
    """
    return model_card(
        name=str(recipe.name),
        architecture=trunk.name,
        size=trunk.inputs.size,
        kinds=kinds,
        teachers={task: f"{card.name} {card.sha256[:12]}" for task, card in teachers.items()},
        evaluation=evaluation,
        recipe_digest=hashlib.sha256(folder.recipe.read_bytes()).hexdigest(),
    )


def view_of(sources: Sources, split: Split | None, recipe: Recipe) -> View:
    """The rows of a set, shared by the processes that were launched together, on this one's device."""
    state = PartialState()
    return View(
        sources,
        split,
        batch_size=recipe.evaluation.batch_size,
        device=state.device,
        processes=Processes(state.process_index, state.num_processes),
    )


def compare_with_bar(
    student: nn.Module,
    teachers: Mapping[str, nn.Module],
    kinds: Mapping[str, TaskKind],
    view: View,
    recipe: Recipe,
    console: Console,
) -> Evaluation:
    """The comparison as a recipe wants it; every process gets the result.

    Args:
        student, teachers: on the device of the view.
        kinds: the tasks.
        view: the rows of opened `Sources`, whose images' size the costs are measured at.
        recipe: says what is acceptable, and how sure to be.
        console: where progress is shown.

    Raises:
        ShardError: a task has no labelled row in the view.
    """
    assert isinstance(view.sources, Sources)
    rows = sum(view.rows(task) for task in kinds)
    with Display(console, "evaluation", rows, unit="row") as display:
        return evaluate(
            student,
            teachers,
            kinds,
            view,
            size=view.sources.size,
            acceptance=recipe.acceptance.margin,
            rule=recipe.acceptance.rule,
            resamples=recipe.evaluation.bootstrap,
            seed=recipe.seed,
            progress=lambda done, total: display.update(done),
            note=lambda text: display.update(rows, text),
        )


def scores_with_bar(
    name: str,
    network: nn.Module,
    teachers: Mapping[str, nn.Module],
    kinds: Mapping[str, TaskKind],
    view: View,
    recipe: Recipe,
    console: Console,
) -> dict[str, TaskResult]:
    """Scores alone, of a network in the student's place; arguments as in `compare_with_bar`."""
    with Display(console, name, sum(view.rows(task) for task in kinds), unit="row") as display:
        return compare(
            network,
            teachers,
            kinds,
            view,
            resamples=recipe.evaluation.bootstrap,
            seed=recipe.seed,
            progress=lambda done, total: display.update(done),
        )
