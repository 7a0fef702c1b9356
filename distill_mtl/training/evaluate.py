"""Compare the student of a finished run with its teachers again: `evaluate("runs/NAME")`."""

from pathlib import Path

from accelerate import PartialState
from rich.console import Console

from distill_mtl.assembly.build import build_sources, build_teachers
from distill_mtl.assembly.processes import leave_group_at_exit
from distill_mtl.display import output
from distill_mtl.errors import UserError
from distill_mtl.evaluation import Evaluation, Processes, View
from distill_mtl.recipe import load_recipe
from distill_mtl.students.folder import load_student
from distill_mtl.training.comparison import compare_with_bar
from distill_mtl.training.run_folder import RunFolder


def evaluate(folder: Path | str, *, console: Console | None = None) -> Evaluation:
    """Measure `folder/student` against the teachers on the test rows that the run's recipe names.

    Prints the table; writes nothing.

    Args:
        folder: a run folder with a finished student.
        console: where to show progress; default standard output.

    Raises:
        UserError: the folder holds no finished run, or data or a teacher of its recipe is gone.
    """
    run = RunFolder(Path(folder))
    for needed in (run.recipe, run.student):
        if not needed.exists():
            raise UserError(
                f"{run.path} holds no finished run: there is no {needed.name}. Give a folder like runs/NAME."
            )
    state = PartialState()
    leave_group_at_exit()
    console = (console or output()) if state.is_main_process else Console(quiet=True)
    recipe = load_recipe(run.recipe)
    teachers, kinds = build_teachers(recipe)
    student = load_student(run.student)
    sources = build_sources(
        recipe, kinds, [student.student.trunk.inputs, *(card.inputs for card in teachers.cards.values())]
    )
    for network in (student, *teachers.values()):
        network.to(state.device)
    view = View(
        sources,
        "test",
        batch_size=recipe.evaluation.batch_size,
        device=state.device,
        processes=Processes(state.process_index, state.num_processes),
    )
    found = compare_with_bar(student, teachers, kinds, view, sources.size, recipe, console)
    if state.is_main_process:
        console.print(found.table())
    return found
