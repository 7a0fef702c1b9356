"""What a comparison leaves in the run folder: results.json, pictures, the student's model card, the report.

The end of a run and `distill-mtl evaluate --write` write the same, so that none of these tells of another comparison.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from distill_mtl.evaluation import Evaluation, View
from distill_mtl.evaluation.card import model_card
from distill_mtl.evaluation.examples import examples, examples_of
from distill_mtl.evaluation.rows import Student, Teacher
from distill_mtl.evaluation.sheet import picture_sheet
from distill_mtl.recipe import Recipe
from distill_mtl.report import write_report
from distill_mtl.report.pictures import write_gallery
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
