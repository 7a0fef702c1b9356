"""What the formats share that record the student as a graph in one file: wrap, write, check, only then keep."""

import io
import json
import time
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.export import Dim, ExportedProgram

from distill_mtl.errors import ExportError, brief
from distill_mtl.export.deployable import Deployable, file_note, remove_unread
from distill_mtl.export.export_format import ExportRequest, Format, refuse_existing
from distill_mtl.export.file_runtimes import FileRuntime, chosen_runtimes
from distill_mtl.export.parity import Parity, RealRows, check_parity
from distill_mtl.files import atomic_files, size_on_disk
from distill_mtl.system_errors import reason_of


class GraphFormat(Format):
    """A file that holds the student as a graph. Subclasses say how it is written; runtimes (`FILE_RUNTIMES`) read it.

    Attributes:
        words: what it is, for people.
        runtimes: names of those that read it, its own one first.
        fixed: it takes one number of rows and one size of pictures, nothing else.
    """

    words: ClassVar[str]
    runtimes: ClassVar[tuple[str, ...]] = ("torch",)
    fixed: ClassVar[bool] = False
    options = frozenset({"preprocess", "decode", "rows", "data", "on", "batch", "size"})

    @abstractmethod
    def write(self, module: Deployable, note: dict[str, Any], path: Path) -> None:
        """Write the file, with the note in it."""

    def export(self, request: ExportRequest) -> None:
        refuse_existing(request.out, overwrite=request.overwrite)
        runtimes = chosen_runtimes(request.on, self.runtimes, f"--to {self.name}")
        rows = RealRows(request)
        remove_unread(request.student.trunk)
        module = self._module(request)
        with torch.no_grad(), atomic_files(request.out) as made:
            file = made / request.out.name
            note = file_note(module, request.source.recipe_sha256, resize=request.source.resize)
            with telling(request, f"recording {', '.join(request.tasks)} as {self.words}"):
                self._write(module, note, file)
            found = {
                name: self._checked(request, module, rows, file, runtime)
                for name, runtime in runtimes.items()
            }
            self.finish(request, module, note, rows, file)
            report = made / f"{request.out.name}.parity.json"
            said = {name: parity.to_dict() for name, parity in found.items()}
            report.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
        if not runtimes:
            request.console.print(
                f"{self.words} is not run on this system: nothing says that it answers as the student does.",
                soft_wrap=True,
            )
        size = size_on_disk(request.out) / 1e6
        request.console.print(f"{request.out}  ({size:.2f} MB)", soft_wrap=True)

    def finish(
        self, request: ExportRequest, module: Deployable, note: dict[str, Any], rows: RealRows, file: Path
    ) -> None:
        """What a format does with a file that has passed its check; by default nothing."""

    def _module(self, request: ExportRequest) -> Deployable:
        preprocessed = request.pixels != "normalised"
        if request.view is not None and not preprocessed:
            raise ExportError(
                "--size is for pictures that the file preprocesses. Without --preprocess they have the trunk's size."
            )
        if self.fixed and preprocessed and request.view is None:
            raise ExportError(
                f"--to {self.name} takes pictures of one height and width. Name them, such as --size 480x640, or leave "
                "out --preprocess."
            )
        batch = request.batch or (1 if self.fixed else None)
        module = Deployable(
            request.student, request.pixels, decode=request.decode, batch=batch, view=request.view
        )
        return module.eval().requires_grad_(False)

    def _write(self, module: Deployable, note: dict[str, Any], file: Path) -> None:
        try:
            with quiet():
                self.write(module, note, file)
        except ExportError:
            raise
        # Whatever an exporter stumbles over, of any type.
        except Exception as error:
            if reason_of(error) is not None:
                raise
            raise ExportError(
                f"the student cannot be written as {self.words}: {brief(error)}. Is it the head of a kind of your own? "
                "Its operations must not depend on the values in a tensor. Try another format with --to."
            ) from error

    def _checked(
        self, request: ExportRequest, module: Deployable, rows: RealRows, file: Path, runtime: FileRuntime
    ) -> Parity:
        words = f"{self.words} in {runtime.words}"
        with telling(request, f"comparing it with the student in {runtime.words}"):
            found = check_parity(module, request.source.load(), runtime.open(file), rows.for_check(module))
        request.console.print(found.table(words))
        found.refuse_difference(words)
        return found


def recorded_program(module: Deployable) -> ExportedProgram:
    """The module as torch.export records it, with its open axes."""
    axes = dict.fromkeys(module.open_axes(), Dim.DYNAMIC)
    return torch.export.export(
        module, (module.example(),), dynamic_shapes=(axes,) if axes else None, strict=False
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters print for their own developers."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def telling(request: ExportRequest, what: str) -> Iterator[None]:
    """Say what takes its time, and how long it took."""
    start = time.monotonic()
    with request.console.status(what):
        yield
    request.console.print(f"{what}: {time.monotonic() - start:.1f} s", style="dim", soft_wrap=True)
