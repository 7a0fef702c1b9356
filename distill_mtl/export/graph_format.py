"""What the formats share that record the student as a graph in one file: wrap, write, check, only then keep."""

import json
import time
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.export import Dim, ExportedProgram

from distill_mtl.errors import ExportError, brief
from distill_mtl.export.deployable import Deployable, file_note, remove_unread
from distill_mtl.export.export_format import ExportRequest, Format, refuse_existing
from distill_mtl.export.parity import Parity, RealRows, check_parity
from distill_mtl.files import atomic_files
from distill_mtl.networks.runtime import RUNTIMES
from distill_mtl.system_errors import reason_of


class GraphFormat(Format):
    """A file that holds the student as a graph. Subclasses say how it is written; its runtime (`RUNTIMES`) reads it.

    Attributes:
        words: what it is, for people.
    """

    words: ClassVar[str]
    options = frozenset({"preprocess", "decode", "rows", "data"})

    @abstractmethod
    def write(self, module: Deployable, note: dict[str, Any], path: Path) -> None:
        """Write the file, with the note in it."""

    def export(self, request: ExportRequest) -> None:
        refuse_existing(request.out, overwrite=request.overwrite)
        rows = RealRows(request)
        remove_unread(request.student.trunk)
        module = (
            Deployable(request.student, request.pixels, decode=request.decode).eval().requires_grad_(False)
        )
        with torch.no_grad(), atomic_files(request.out) as made:
            file = made / request.out.name
            note = file_note(module, request.source.recipe_sha256, resize=request.source.resize)
            with telling(request, f"recording {', '.join(request.tasks)} as {self.words}"):
                self._write(module, note, file)
            found = self._checked(request, module, rows, file)
            self.finish(request, module, note, rows, file)
            report = made / f"{request.out.name}.parity.json"
            report.write_text(json.dumps(found.to_dict(), indent=2) + "\n", encoding="utf-8")
        request.console.print(f"{request.out}  ({request.out.stat().st_size / 1e6:.2f} MB)", soft_wrap=True)

    def finish(
        self, request: ExportRequest, module: Deployable, note: dict[str, Any], rows: RealRows, file: Path
    ) -> None:
        """What a format does with a file that has passed its check; by default nothing."""

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

    def _checked(self, request: ExportRequest, module: Deployable, rows: RealRows, file: Path) -> Parity:
        with telling(request, "comparing it with the student"):
            found = check_parity(
                module, request.source.load(), RUNTIMES[self.ending](file), rows.for_check(module)
            )
        request.console.print(found.table(self.words))
        found.refuse_difference(self.words)
        return found


def recorded_program(module: Deployable) -> ExportedProgram:
    """The module as torch.export records it, with its open axes."""
    axes = dict.fromkeys(module.open_axes(), Dim.DYNAMIC)
    return torch.export.export(module, (module.example(),), dynamic_shapes=(axes,), strict=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings that exporters print for their own developers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def telling(request: ExportRequest, what: str) -> Iterator[None]:
    """Say what takes its time, and how long it took."""
    start = time.monotonic()
    with request.console.status(what):
        yield
    request.console.print(f"{what}: {time.monotonic() - start:.1f} s", style="dim", soft_wrap=True)
