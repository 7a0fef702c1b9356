"""What the formats share that record the student as a graph in one file: wrap, write, check, only then keep."""

import io
import time
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch
from torch.export import Dim, ExportedProgram

from distill_mtl.errors import ExportError, UserError, brief
from distill_mtl.evaluation.cost import latencies_of
from distill_mtl.export.certificate import certify, record
from distill_mtl.export.deployable import Deployable, file_note, remove_unread
from distill_mtl.export.export_format import ExportRequest, Format, find_student, refuse_existing
from distill_mtl.export.file_runtimes import FileRuntime, chosen_runtimes
from distill_mtl.export.parity import Parity, PictureBatch, RealRows, check_parity
from distill_mtl.export.reference import ENDING as REFERENCE
from distill_mtl.export.reference import write_reference
from distill_mtl.files import atomic_files, size_on_disk
from distill_mtl.networks.runtime import Runtime
from distill_mtl.recipe.schema import task_of
from distill_mtl.run_files import RunFiles
from distill_mtl.run_notes import CERTIFICATE, read_teachers
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
    options = frozenset({"preprocess", "decode", "rows", "data", "on", "batch", "size", "teachers"})

    @abstractmethod
    def write(self, module: Deployable, note: dict[str, Any], path: Path) -> None:
        """Write the file, with the note in it."""

    def export(self, request: ExportRequest) -> None:
        refuse_existing(request.out, overwrite=request.overwrite)
        with atomic_files(request.out) as made:
            self.make(request, made)
            rows = f"{request.out.name}{REFERENCE}"
            recorded = (made / rows).exists()
        if not recorded:  # an earlier export's, with the user's pictures
            request.out.with_name(rows).unlink(missing_ok=True)
        size = size_on_disk(request.out) / 1e6
        request.console.print(f"{request.out}  ({size:.2f} MB)", soft_wrap=True)

    def make(self, request: ExportRequest, made: Path) -> None:
        """Write the file under its name into a folder, check it, and write what the checks found beside it."""
        runtimes = chosen_runtimes(request.on, self.runtimes, f"--to {self.name}")
        rows = RealRows(request)
        remove_unread(request.student.trunk)
        module = self.module(request)
        with torch.no_grad():
            file = made / request.out.name
            note = file_note(module, request.source.recipe_sha256, resize=request.source.resize)
            with telling(request, f"recording {', '.join(request.tasks)} as {self.words}"):
                self.write_file(module, note, file)
            batches = rows.for_check(module)
            found = {
                name: self._checked(request, module, batches, file, runtime)
                for name, runtime in runtimes.items()
            }
            self.finish(request, module, note, rows, file)
            if request.int8:  # what int8 loses is said by the table of `finish`
                found = {
                    name: self._compared(request, module, batches, file, runtime)
                    for name, runtime in runtimes.items()
                }
            records = {
                name: record(runtimes[name], parity, opened, module, batches)
                for name, (opened, parity) in found.items()
            }
            if request.teachers:
                records = {
                    name: replace(one, teachers_ms=self._teachers_ms(request, runtimes[name]))
                    for name, one in records.items()
                }
            files = [path for path in made.iterdir() if not path.name.endswith(".results.json")]
            reference = None
            if records:
                beside = made / f"{request.out.name}{REFERENCE}"
                reference = write_reference(beside, module, request.source.load(), batches)
            certificate = certify(request, module, files, batches, records, reference)
            certificate.write(made / f"{request.out.name}{CERTIFICATE}")
        if not runtimes:
            request.console.print(
                f"{self.words} is not run on this system: nothing says that it answers as the student does.",
                soft_wrap=True,
            )

    def finish(
        self, request: ExportRequest, module: Deployable, note: dict[str, Any], rows: RealRows, file: Path
    ) -> None:
        """What a format does with a file that has passed its check; by default nothing."""

    def module(self, request: ExportRequest) -> Deployable:
        """What a request records.

        Raises:
            ExportError: there is no such graph of the student, or of this format.
        """
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

    def write_file(self, module: Deployable, note: dict[str, Any], file: Path) -> None:
        """Write the file, or say why there is none.

        Raises:
            ExportError: the exporter cannot write it.
        """
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
        self,
        request: ExportRequest,
        module: Deployable,
        batches: Sequence[PictureBatch],
        file: Path,
        runtime: FileRuntime,
    ) -> tuple[Runtime, Parity]:
        """As `_compared`, shown; refused where a sure decision changes."""
        words = f"{self.words} in {runtime.words}"
        with telling(request, f"comparing it with the student in {runtime.words}"):
            opened, found = self._compared(request, module, batches, file, runtime)
        request.console.print(found.table(words))
        found.refuse_difference(words)
        return opened, found

    def _compared(
        self,
        request: ExportRequest,
        module: Deployable,
        batches: Sequence[PictureBatch],
        file: Path,
        runtime: FileRuntime,
    ) -> tuple[Runtime, Parity]:
        """The file in a runtime, and its answers beside the student's."""
        opened = runtime.open(file, self.ending)
        return opened, check_parity(module, request.source.load(), opened, batches)

    def _teachers_ms(self, request: ExportRequest, runtime: FileRuntime) -> float | None:
        """Milliseconds of the teachers' passes in a runtime, added up; None where one of them has no such form."""
        found = read_teachers(RunFiles(request.source.run).teachers)
        files = {
            Path(entry["file"])
            for name, entry in found.items()
            if task_of(name) in request.tasks and "file" in entry
        }
        total = 0.0
        with TemporaryDirectory() as folder:
            for at, file in enumerate(sorted(files)):
                try:
                    student = find_student(file.parent, trust=request.source.trust).load().student
                    module = Deployable(student, "normalised", decode=False, batch=request.batch or 1)
                    written = Path(folder) / f"{at}{self.ending}"
                    self.write_file(module.eval().requires_grad_(False), file_note(module, None), written)
                    one_pass = partial(runtime.open(written, self.ending), module.example())
                    total += sum(latencies_of([one_pass]))
                except UserError as error:
                    request.console.print(
                        f"the latency of the teachers is left out: {file} cannot be written as {self.words}: {error}",
                        soft_wrap=True,
                        highlight=False,
                    )
                    return None
        return total or None


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
