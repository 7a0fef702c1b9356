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
from distill_mtl.export.deployable import Deployable, describe
from distill_mtl.export.export_format import Format, Order, export_files, refuse_existing
from distill_mtl.export.parity import Parity, RealRows, check_parity
from distill_mtl.networks.cut import cut
from distill_mtl.networks.runtime import RUNTIMES


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

    def export(self, order: Order) -> None:
        refuse_existing(order.out, overwrite=order.overwrite)
        rows = RealRows(order)
        cut(order.student.trunk)
        module = Deployable(order.student, order.pixels, decode=order.decode).eval().requires_grad_(False)
        with torch.no_grad(), export_files(order.out) as made:
            file = made / order.out.name
            note = describe(module, order.trained.recipe_sha256, resize=order.trained.resize)
            with telling(order, f"recording {', '.join(order.tasks)} as {self.words}"):
                self._write(module, note, file)
            found = self._checked(order, module, rows, file)
            self.finish(order, module, note, rows, file)
            report = made / f"{order.out.name}.parity.json"
            report.write_text(json.dumps(found.to_dict(), indent=2) + "\n", encoding="utf-8")
        order.console.print(f"{order.out}  ({order.out.stat().st_size / 1e6:.2f} MB)", soft_wrap=True)

    def finish(
        self, order: Order, module: Deployable, note: dict[str, Any], rows: RealRows, file: Path
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
            raise ExportError(
                f"the student cannot be written as {self.words}: {brief(error)}. Is it the head of a kind of your own? "
                "Its operations must not depend on the values in a tensor. Try another format with --to."
            ) from error

    def _checked(self, order: Order, module: Deployable, rows: RealRows, file: Path) -> Parity:
        with telling(order, f"comparing it with the student on {order.rows} rows"):
            found = check_parity(
                module, order.trained.load(), RUNTIMES[self.ending](file), rows.for_check(module)
            )
        order.console.print(found.table(self.words))
        found.refuse_difference(self.words)
        return found


def recorded_program(module: Deployable) -> ExportedProgram:
    """The module as torch.export records it, with its open axes."""
    axes = dict.fromkeys(module.open_axes(), Dim.DYNAMIC)
    return torch.export.export(module, (module.example(),), dynamic_shapes=(axes,), strict=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings with which exporters speak to their own developers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def telling(order: Order, what: str) -> Iterator[None]:
    """Say what takes its time, and how long it took."""
    start = time.monotonic()
    with order.console.status(what):
        yield
    order.console.print(f"{what}: {time.monotonic() - start:.1f} s", style="dim", soft_wrap=True)
