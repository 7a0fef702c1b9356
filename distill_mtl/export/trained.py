"""The student that a command names: `runs/NAME` or `runs/NAME/student`, with the recipe of its run if it is there."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from distill_mtl.errors import ExportError, nearest
from distill_mtl.networks.weights import CONFIG, read_config
from distill_mtl.students.student import Student
from distill_mtl.students.student_folder import DeployedStudent, load_student
from distill_mtl.training.run_folder import RunFolder


@dataclass(frozen=True)
class Trained:
    """A student on disk.

    Attributes:
        folder: the student's.
        home: the run's folder; the student's own where it stands alone.
        recipe: of the run, as resolved; None where the student stands alone.
        trust: the code of kinds of the user's own may run.
    """

    folder: Path
    home: Path
    recipe: Path | None
    trust: bool = False

    @property
    def name(self) -> str:
        """For files: that of the run."""
        return self.home.resolve().name

    @property
    def recipe_sha256(self) -> str | None:
        """Of the resolved recipe; None where there is none."""
        return None if self.recipe is None else hashlib.sha256(self.recipe.read_bytes()).hexdigest()

    @property
    def resize(self) -> str | None:
        """What evaluation showed of a picture of another shape, as the student's folder says; None: it does not say."""
        said = read_config(self.folder).get("extra", {}).get("resize")
        return None if said is None else str(said)

    def load(self) -> DeployedStudent:
        """The student, anew.

        Raises:
            StudentError: it is broken, or names code that is not trusted.
        """
        return load_student(self.folder, trust=self.trust)


def find_trained(path: Path, *, trust: bool = False) -> Trained:
    """The student in a run's folder, or in its own.

    Raises:
        ExportError: there is none.
    """
    run = RunFolder(path)
    if (run.student / CONFIG).is_file():
        folder, home = run.student, path
    elif (path / CONFIG).is_file():
        home = path.parent if (path.parent / run.recipe.name).is_file() else path
        folder = path
    else:
        what = "no finished run" if run.recipe.exists() else "no student" if path.exists() else "nothing"
        raise ExportError(
            f"{path} holds {what}: there is no student/{CONFIG}. Give a run's folder like runs/NAME, or a student's."
        )
    recipe = RunFolder(home).recipe
    return Trained(folder, home, recipe if recipe.is_file() else None, trust)


def only(student: DeployedStudent, tasks: list[str] | None) -> Student:
    """The student with the heads of some tasks alone, in the order of the student's own; None: all.

    Raises:
        ExportError: there is no such task.
    """
    whole = student.student
    if tasks is None:
        return whole
    for task in tasks:
        if task not in whole.kinds:
            raise ExportError(
                f"--only {task}: the student has no such task.{nearest(task, whole.kinds)} Tasks: "
                f"{', '.join(whole.kinds)}."
            )
    kinds = {task: kind for task, kind in whole.kinds.items() if task in tasks}
    part = Student(whole.trunk, kinds)
    for task in kinds:
        part.heads[task] = whole.heads[task]
    return part.eval()
