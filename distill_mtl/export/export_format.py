"""What an export is: a format (a class of `formats/`, found by the name that `--to` takes), and a request to write it.

`ExportRequest` holds the student, its source on disk and the options; `export_folder` writes the
result whole or not at all.
"""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from rich.console import Console

from distill_mtl.errors import ExportError, nearest
from distill_mtl.export.deployable import Pixels
from distill_mtl.files import atomic_folder
from distill_mtl.geometry.views import Size
from distill_mtl.networks.inputs import Preprocess
from distill_mtl.networks.opening import open_network
from distill_mtl.networks.weights import CONFIG, read_config
from distill_mtl.recipe.schema import StudentSection
from distill_mtl.registry import Registry
from distill_mtl.students.initial_weights import InitialHead, build_student
from distill_mtl.students.student import Student
from distill_mtl.students.student_folder import DeployedStudent, load_student
from distill_mtl.teachers.load_teacher import kind_of, teacher_of
from distill_mtl.training.run_folder import RunFolder

FORMATS: Registry[type["Format"]] = Registry("export format", "distill_mtl.export.formats")


@dataclass(frozen=True)
class StudentSource:
    """A student on disk, or a classifier in timm's form, which is a student of one task.

    Attributes:
        folder: the student's.
        run: the run's folder; the student's own where it stands alone.
        recipe: of the run, as resolved; None where the student stands alone.
        trained: the run's student, from which this one was trained on for 8 bits; None: it is the run's own.
        size: height and width at which the student sees pictures, in place of its own.
        trust: the code of kinds of the user's own may run.
    """

    folder: Path
    run: Path
    recipe: Path | None
    trust: bool = False
    trained: Path | None = None
    size: Size | None = None

    @property
    def place(self) -> Path:
        """Where this student is found again."""
        return self.run if self.trained is None else self.folder

    @property
    def original(self) -> "StudentSource":
        """The run's own student."""
        return self if self.trained is None else replace(self, folder=self.trained, trained=None)

    @property
    def name(self) -> str:
        """For files: that of the run."""
        return self.run.resolve().name

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
            UserError: it is broken, or names code that is not trusted.
        """
        if "architecture" in read_config(self.folder):
            found = DeployedStudent(_student_of_timm(self.folder)).eval()
        else:
            found = load_student(self.folder, trust=self.trust)
        if self.size is not None:
            _see_at(found.student, self.size)
        return found


@dataclass(frozen=True)
class ExportRequest:
    """What is to be exported, and how.

    Attributes:
        format: that `--to` names.
        source: where the student lies, and the run that made it.
        student: loaded for this request alone, with the heads of the wanted tasks; a format may change it.
        out: file or folder to write.
        pixels: what the graph takes; "normalised": preprocessing is left to the caller.
        decode: answers too, beside the logits.
        int8: quantise.
        rows: how many rows the check looks at.
        calibration: how many rows quantisation looks at.
        data: shards for both in place of the run's; empty: the run's.
        overwrite: an earlier export may be replaced.
        console: where to say what is done.
        repo: on the Hugging Face hub, OWNER/NAME; None: nothing is pushed.
        private: a new repository is not seen by others.
        license: that the card names, by the hub's identifier; None: what the card says already.
        on: runtimes in which the file is checked (`FILE_RUNTIMES`); None: its own.
        batch: the only number of rows that the file takes; None: any, or 1 where the format wants one number.
        view: the only height and width of pictures that it takes with `pixels` other than "normalised"; None: any.
        teachers: their latency in the same runtime is measured too.
    """

    format: str
    source: StudentSource
    student: Student
    out: Path
    pixels: Pixels
    decode: bool
    int8: bool
    rows: int
    calibration: int
    data: Sequence[str]
    overwrite: bool
    console: Console
    repo: str | None = None
    private: bool = False
    license: str | None = None
    on: Sequence[str] | None = None
    batch: int | None = None
    view: Size | None = None
    teachers: bool = False

    @property
    def tasks(self) -> tuple[str, ...]:
        """That are exported."""
        return tuple(self.student.kinds)


class Format(ABC):
    """One form in which a student leaves.

    Attributes:
        name: that `--to` takes.
        ending: of the file or folder that is written; a file's begins with a dot.
        options: those of the command that change something for this format: `preprocess`, `decode`, `int8`,
            `rows`, `data`, `repo`, `private`, `license`, `on`, `batch`, `size`,
            `teachers`. Others are refused.
        packages: that it needs.
        extra: of ours, that installs them; empty: the one of its own name.
    """

    name: ClassVar[str]
    ending: ClassVar[str]
    options: ClassVar[frozenset[str]] = frozenset()

    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""

    @property
    def writes_folder(self) -> bool:
        """Whether the export is a folder, not a file."""
        return not self.ending.startswith(".")

    def refuse_missing(self) -> None:
        """Raise ExportError where a package that this format needs is not installed."""
        missing = [name for name in self.packages if find_spec(name) is None]
        if missing:
            raise ExportError(
                f"--to {self.name} needs {', '.join(missing)}: pip install 'distill_mtl[{self.extra or self.name}]'."
            )

    @abstractmethod
    def export(self, request: ExportRequest) -> None:
        """Write it, complete or not at all, and check it.

        Raises:
            UserError: the student has no such form, or what was written does not answer as it does.
        """


def find_student(path: Path, *, trust: bool = False) -> StudentSource:
    """The student in a run's folder, or in its own.

    Raises:
        ExportError: there is none.
    """
    given = RunFolder(path)
    if os.path.isfile(given.student / CONFIG):
        folder, run = given.student, path
    elif os.path.isfile(path / CONFIG):
        folder, run = path, path.parent if (path.parent / given.recipe.name).is_file() else path
    else:
        what = (
            "no finished run"
            if os.path.exists(given.recipe)
            else "no student"
            if os.path.exists(path)
            else "nothing"
        )
        raise ExportError(
            f"{path} holds {what}: there is no student/{CONFIG}. Give a run's folder like runs/NAME, or a student's."
        )
    recipe = RunFolder(run).recipe
    return StudentSource(folder, run, recipe if recipe.is_file() else None, trust)


def only_tasks(student: DeployedStudent, tasks: list[str] | None) -> Student:
    """The student with the heads of some tasks alone, in the student's own order; None: all.

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
    part = Student(whole.trunk.only(list(kinds)), kinds)
    for task in kinds:
        part.heads[task] = whole.heads[task]
    return part.eval()


def _see_at(student: Student, size: Size) -> None:
    """Let a student see pictures at another size.

    Raises:
        UserError: its trunk cannot.
    """
    trunk = student.trunk
    shapes = dict(trunk.shapes)
    trunk.preprocess = Preprocess(replace(trunk.inputs, size=size))
    trunk.tap(trunk.tapped)
    trunk.shapes.update(shapes)  # by which kinds choose layers: they would choose others for this size


def _student_of_timm(folder: Path) -> Student:
    """A classifier in timm's form as a student, which begins with all of its weights."""
    network = open_network(folder)
    (task,) = network.tasks
    teacher, trunk = teacher_of(network, task), network.trunk
    assert trunk is not None, "timm's form names the architecture"
    section = StudentSection(
        model=trunk["model"], args=trunk["args"], init=str(folder), input_size=network.inputs.size
    )
    head = InitialHead(folder, None, teacher.card.labels)
    return build_student(section, {task: kind_of(teacher)}, seed=0, initial_heads={task: head})


def refuse_existing(out: Path, *, overwrite: bool) -> None:
    """Raise ExportError where `out` is there and may not be replaced, or is a folder in the place of a file.

    A `.mlpackage` is a folder that counts as a file.
    """
    if out.is_dir() and out.suffix != ".mlpackage":
        raise ExportError(f"{out} is a folder. Name a file with --out.")
    if out.exists() and not overwrite:
        raise ExportError(f"{out} exists. Replace it with --overwrite, or choose another name with --out.")


@contextmanager
def export_folder(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """An empty folder of the same name for a network, which becomes `out` when the block ends well.

    Raises:
        ExportError: `out` is there and may not be replaced, holds something else than a network, or cannot be written.
    """
    if out.exists() and not ((out / CONFIG).is_file() or (out.is_dir() and not any(out.iterdir()))):
        raise ExportError(f"{out} exists and holds no network. Choose another folder with --out.")
    if (out / CONFIG).is_file() and not overwrite:
        raise ExportError(f"{out} exists. Replace it with --overwrite, or choose another folder with --out.")
    with atomic_folder(out) as made:
        yield made
