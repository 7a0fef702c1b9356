"""What a comparison leaves in the run folder: results.json, pictures, the student's model card, the report.

The end of a run and `distill-mtl evaluate --write` write the same, so that none of these tells of another comparison.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from accelerate import PartialState
from rich.console import Console

from distill_mtl.display import console_of
from distill_mtl.errors import UserError
from distill_mtl.evaluation import Comparison, Evaluation
from distill_mtl.evaluation.examples import examples, examples_of
from distill_mtl.evaluation.several_teachers import by_teacher
from distill_mtl.files import atomic_file, size_on_disk
from distill_mtl.jobs.report import report_in
from distill_mtl.recipe import Recipe
from distill_mtl.recipe.schema import task_of
from distill_mtl.report.model_card import model_card
from distill_mtl.report.pictures import write_gallery
from distill_mtl.report.sample_grid import sample_grid
from distill_mtl.students.student import Body
from distill_mtl.tasks.base import TaskKind
from distill_mtl.teachers.card import TeacherCard
from distill_mtl.training.processes import start_processes
from distill_mtl.training.run_folder import RunFolder

_PICTURED = 24  # disagreements over all tasks: a page of one or two megabytes
_USUAL = 100_000  # bytes, at the least


def write_run_artefacts(
    folder: RunFolder,
    evaluation: Evaluation,
    comparison: Comparison,
) -> Path:
    """Write all but the model card, which lies with the weights; for one process alone.

    Args:
        folder: of the run.
        evaluation: the comparison's result.
        comparison: whose rows are shown.

    Returns:
        The report.

    Raises:
        WriteError: the disk is full; each file is whole, as it was or new.
    """
    evaluation.write(folder.results)
    comparison = by_teacher(comparison)
    few = max(2, _PICTURED // len(evaluation.tasks))
    keys = {
        task: [row.key for row in result.disagreements[:few]] for task, result in evaluation.tasks.items()
    }
    samples = examples(comparison)
    legends = {task: kind.legend() for task, kind in comparison.kinds.items()}
    with atomic_file(folder.pictures) as file:
        sample_grid(samples, legends).save(file, "PNG")
    write_gallery(
        folder.examples, disagreements=examples_of(keys, comparison), samples=samples, legends=legends
    )
    return report_in(folder.path)


def artefact_bytes(folder: RunFolder) -> int:
    """About what `write_run_artefacts` takes: as much as what it replaces, which stays until it is written."""
    replaced = (folder.results, folder.pictures, folder.examples, folder.report, folder.report_markdown)
    return max(_USUAL, sum(map(size_on_disk, replaced)))


def card_of(
    folder: RunFolder,
    recipe: Recipe,
    trunk: Body,
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
        teachers=_taught_by(teachers),
        evaluation=evaluation,
        recipe_digest=hashlib.sha256(folder.recipe.read_bytes()).hexdigest(),
        needs=trunk.code,
    )


def _taught_by(teachers: Mapping[str, TeacherCard]) -> dict[str, str]:
    """task -> its teachers, each with the beginning of its digest."""
    said: dict[str, list[str]] = {}
    for name, card in teachers.items():
        said.setdefault(task_of(name), []).append(f"{card.name} {card.sha256[:12]}")
    return {task: ", ".join(names) for task, names in said.items()}


def shared_console(console: Console | None) -> tuple[PartialState, Console]:
    """The processes that were launched together, and where they print: the first one alone."""
    state = start_processes()
    return state, console_of(console, first=state.is_main_process)


def earlier_result(path: Path, console: Console) -> Evaluation | None:
    """The result that stands in a run folder; None where there is none.

    A result that cannot be read is reported and counts as missing, because it is about to be measured again.
    """
    try:
        return Evaluation.read(path) if path.exists() else None
    except UserError as error:
        said = f"{error}\nIts baselines, steps and seconds are not kept."
        console.print(said, style="yellow", markup=False)
        return None
