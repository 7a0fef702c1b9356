"""`distill-mtl teacher train`: the same machinery with one task and no teacher, saved as a teacher's folder."""

from collections.abc import Sequence
from pathlib import Path

from accelerate import PartialState
from rich.console import Console

from distill_mtl.errors import RecipeError, UserError
from distill_mtl.evaluation import Evaluation, TaskResult
from distill_mtl.recipe import Recipe, load_recipe
from distill_mtl.students.folder import load_student, save_student
from distill_mtl.students.timm_form import save_timm
from distill_mtl.teachers.score import RecordedScore, write_score
from distill_mtl.training.parts import known_names
from distill_mtl.training.run import distill
from distill_mtl.training.run_folder import RunFolder


def train_teacher(
    recipe: Path,
    overrides: Sequence[str] = (),
    *,
    out: Path | None = None,
    to: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Train the one task of a recipe on its labels alone and save the network as a teacher.

    A classifier is saved in timm's local-dir form, any other kind and a head of several layers, for which timm
    has no form, as a student folder. Both carry score.json: what it scores, and on what that was measured.

    Args:
        recipe: of one task that has no teacher.
        overrides: as in `load_recipe`.
        out: the run folder; default runs/NAME.
        to: the teacher's folder; default `teacher` in the run folder.
        resume, overwrite: as in `distill`.

    Returns:
        The teacher's folder.

    Raises:
        UserError: the recipe has several tasks or a teacher, or `to` is taken.
    """
    loaded = load_recipe(recipe, overrides, known=known_names())
    task = _only_task(loaded, recipe)
    run = RunFolder(out or Path("runs") / str(loaded.name))
    folder = to or run.path / "teacher"
    if folder.exists() and any(folder.iterdir()) and not (overwrite or resume):
        raise UserError(
            f"{folder} is not empty. Choose another folder with --to, or replace it with --overwrite."
        )
    evaluation = distill(loaded, out=run.path, resume=resume, overwrite=overwrite)
    if not PartialState().is_main_process:
        return folder
    _save(run, task, folder, evaluation, recipe)
    Console().print(f"teacher: {folder}", highlight=False, soft_wrap=True)
    return folder


def _only_task(recipe: Recipe, path: Path) -> str:
    if len(recipe.tasks) != 1 or any(section.teacher is not None for section in recipe.tasks.values()):
        raise RecipeError(
            f"Recipe {path}: a teacher is trained from one task without a teacher, found the tasks "
            f"{', '.join(recipe.tasks)}. To merge teachers: accelerate launch distill.py {path}"
        )
    return next(iter(recipe.tasks))


def _save(run: RunFolder, task: str, folder: Path, evaluation: Evaluation, recipe: Path) -> None:
    result = evaluation.tasks[task]
    student = load_student(run.student).student
    in_timms_form = result.kind == "classification" and (student.kinds[task].shape.depth or 1) == 1
    card = _card(task, result, folder, recipe, in_timms_form)
    if in_timms_form:
        save_timm(student, task, folder, card=card)
    else:
        save_student(student, folder, card=card)
    score = RecordedScore(
        task=task,
        kind=result.kind,
        metric=result.metric,
        score=round(result.student, 2),
        rows=result.rows,
        measured_on=f"the test rows of {recipe}",
        command=f"distill-mtl teacher train {recipe}",
    )
    write_score(folder, score)


def _card(task: str, result: TaskResult, folder: Path, recipe: Path, in_timms_form: bool) -> str:
    if in_timms_form:
        code = f'network = timm.create_model("local-dir:{folder}", pretrained=True)'
    else:
        code = f'network = distill_mtl.load_student("{folder}")'
    return (
        f"# Teacher of `{task}`\n\n"
        f"A {result.kind} network of one task, trained on labels alone: {result.metric} {result.student:.2f} on the "
        f"{result.rows:,} test rows of {recipe}.\n\n"
        f"```python\n{code}\n```\n\n"
        f"Trained by `distill-mtl teacher train {recipe}`; as a teacher: `teacher: {folder}`.\n"
    )
