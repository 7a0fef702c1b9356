"""What a format of `distill-mtl export` is: a class of `formats/`, found by the name that `--to` takes."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from rich.console import Console

from distill_mtl.errors import ExportError
from distill_mtl.export.deployable import Pixels
from distill_mtl.export.trained import Trained
from distill_mtl.registry import Registry
from distill_mtl.students.student import Student

FORMATS: Registry[type["Format"]] = Registry("export format", "distill_mtl.export.formats")


@dataclass(frozen=True)
class Order:
    """What is to be exported, and how.

    Attributes:
        trained: where the student lies, and the run that made it.
        student: loaded for this order alone, with the heads of the wanted tasks; a format may change it.
        out: file or folder to write; what a format writes to no file reads it as it likes.
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
    """

    trained: Trained
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

    @property
    def tasks(self) -> tuple[str, ...]:
        """That are exported."""
        return tuple(self.student.kinds)


class Format(ABC):
    """One form in which a student leaves.

    Attributes:
        name: that `--to` takes.
        ending: of the file or folder that is written.
        options: those of the command that change something for this format: `preprocess`, `decode`, `int8`,
            `rows`, `data`, `repo`, `private`, `license`. Others are refused.
        packages: that it needs, of the extra of its own name.
    """

    name: ClassVar[str]
    ending: ClassVar[str]
    options: ClassVar[frozenset[str]] = frozenset()

    packages: ClassVar[tuple[str, ...]] = ()

    def refuse_missing(self) -> None:
        """Raise ExportError where a package that this format needs is not installed."""
        missing = [name for name in self.packages if find_spec(name) is None]
        if missing:
            raise ExportError(
                f"--to {self.name} needs {', '.join(missing)}: pip install 'distill_mtl[{self.name}]'."
            )

    @abstractmethod
    def export(self, order: Order) -> None:
        """Write it, complete or not at all, check it, and say so.

        Raises:
            UserError: the student has no such form, or what was written does not answer as it does.
        """
