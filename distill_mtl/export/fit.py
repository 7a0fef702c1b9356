"""`--fit 5ms`: of the files that a student can become, the best that answers one picture in so much time here.

Candidates are the student in fp32 and in 8 bits, at its own input size and at smaller ones that its trunk can run at.
Their points are measured on validation rows, so that the test rows of the export's own check say what the chosen one
scores. `jobs/export.py` calls it.
"""

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
from rich import box
from rich.table import Table

from distill_mtl.errors import ExportError
from distill_mtl.evaluation import Comparison, EvaluationSet, delta_on, references
from distill_mtl.evaluation.cost import latencies_of
from distill_mtl.export.deployable import Deployable, file_note, remove_unread
from distill_mtl.export.export_format import ExportRequest, StudentSource, only_tasks
from distill_mtl.export.file_runtimes import FILE_RUNTIMES
from distill_mtl.export.formats.onnx import Onnx
from distill_mtl.export.graph_format import telling
from distill_mtl.export.int8 import QuantisableFormat, calibration_batches
from distill_mtl.export.parity import RealRows
from distill_mtl.networks.opening import open_network
from distill_mtl.students.student import Student
from distill_mtl.teachers.load_teacher import Asked, teachers_of
from distill_mtl.teachers.shared_trunks import JoinedTeachers

SHARES = (1.0, 0.75, 0.5)
"""Of each side of the student's own input size."""
_MULTIPLE = 4  # pixels, of the sides of smaller inputs
_BUDGET = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s)")


@dataclass(frozen=True)
class Candidate:
    """A file that the student can become, as measured here.

    Attributes:
        request: that writes it.
        latency_ms: of one picture.
        deltas: task -> points against the student in fp32 at its own size, on validation rows; where the score is in
            the labels' unit, percent.
    """

    request: ExportRequest
    latency_ms: float
    deltas: Mapping[str, float]

    @property
    def points(self) -> float:
        """Mean over tasks."""
        return fmean(self.deltas.values())

    @property
    def name(self) -> str:
        """Precision and input size."""
        height, width = self.request.student.trunk.inputs.size
        return f"{'int8' if self.request.int8 else 'fp32'} {height}x{width}"


def as_milliseconds(said: str) -> float:
    """`5ms`, `0.5 ms` or `1s`.

    Raises:
        ExportError: it is none of these.
    """
    found = _BUDGET.fullmatch(said.strip())
    if found is None or float(found[1]) == 0:
        raise ExportError(f"--fit {said}: expected a time for one picture, such as 5ms or 0.5ms.")
    return float(found[1]) * (1000 if found[2] == "s" else 1)


def best_fit(chosen: QuantisableFormat, request: ExportRequest, budget_ms: float) -> ExportRequest:
    """The request for the candidate that loses least of those that keep the budget; shows all of them.

    Args:
        chosen: the format.
        request: of the student in fp32 at its own size; where its source was trained on for 8 bits, candidates in 8
            bits are of that, the others of the run's own.
        budget_ms: for one picture.

    Raises:
        ExportError: none keeps it, or there are no rows with labels.
    """
    if request.source.recipe is None or request.data:
        raise ExportError(
            "--fit compares points on the labelled rows of a run. Give a run's folder, and leave out --data."
        )
    with telling(request, "measuring candidates"), tempfile.TemporaryDirectory() as folder:
        candidates = _measured(chosen, _requests(request), Path(folder))
    fitting = [one for one in candidates if one.latency_ms <= budget_ms]
    best = max(fitting, key=lambda one: (one.points, -one.latency_ms), default=None)
    request.console.print(_table(candidates, best, budget_ms))
    if best is None:
        fastest = min(candidates, key=lambda one: one.latency_ms)
        raise ExportError(
            f"--fit: nothing answers within {budget_ms:g} ms here. The fastest is {fastest.name}, "
            f"{fastest.latency_ms:.2f} ms. Allow more, export fewer tasks with --only, or train a smaller student."
        )
    return replace(best.request, student=_student(best.request, best.request.source))


def _requests(request: ExportRequest) -> list[ExportRequest]:
    """One for each candidate, the student in fp32 at its own size first."""
    height, width = request.student.trunk.inputs.size
    sizes = dict.fromkeys((_side(height, share), _side(width, share)) for share in SHARES)
    found = []
    for int8, source in ((False, request.source.original), (True, request.source)):
        for size in sizes:
            sized = replace(source, size=None if size == (height, width) else size)
            try:
                student = _student(request, sized)
                with torch.no_grad():
                    student(torch.zeros(1, 3, *student.trunk.inputs.size))
            # Whatever a network raises that runs at one size alone.
            except Exception:
                if sized.size is None:
                    raise
                continue
            found.append(replace(request, source=sized, student=student, int8=int8))
    return found


def _side(length: int, share: float) -> int:
    return length if share == 1 else max(_MULTIPLE, round(share * length / _MULTIPLE) * _MULTIPLE)


def _student(request: ExportRequest, source: StudentSource) -> Student:
    return only_tasks(source.load(), list(request.tasks))


def _measured(chosen: QuantisableFormat, requests: Sequence[ExportRequest], folder: Path) -> list[Candidate]:
    ending = Onnx.ending if chosen.writes_folder else chosen.ending
    runtime, files, passes = FILE_RUNTIMES[chosen.runtimes[0]], list[Path](), []
    for number, request in enumerate(requests):
        files.append(folder / f"{number}{ending}")
        module = _write(chosen, request, files[-1])
        size = module.view or module.trunk.inputs.size
        noise = torch.rand(module.batch or 1, 3, *size, generator=torch.Generator().manual_seed(0))
        passes.append(partial(runtime.open(files[-1], ending), module.taken(noise)))
    found = zip(requests, latencies_of(passes), _deltas(requests[0], files), strict=True)
    return [Candidate(*each) for each in found]


def _write(chosen: QuantisableFormat, request: ExportRequest, file: Path) -> Deployable:
    """Write the candidate, unchecked: the export of the best one checks it. Gives what the file holds in fp32."""
    remove_unread(request.student.trunk)
    module = chosen.module(request)
    note = file_note(module, request.source.recipe_sha256, resize=request.source.resize)
    with torch.no_grad():
        chosen.write_file(module, note, file)
        if request.int8:
            note["precision"] = "int8"
            chosen.write_int8(module, note, file, calibration_batches(request, module, RealRows(request)))
    return module


def _deltas(whole: ExportRequest, files: Sequence[Path]) -> list[dict[str, float]]:
    """Of each file, against the first one."""
    rows, kinds = RealRows(whole), whole.student.kinds
    sources = rows.sources(whole.student.trunk.inputs.size)
    labelled = all(sources.count(task, "validation") for task in kinds)
    split = EvaluationSet(
        sources, "validation" if labelled else "test", batch_size=rows.recipe.evaluation.batch_size
    )
    opened = [
        teachers_of(open_network(file, trust=whole.source.trust), dict.fromkeys(kinds, Asked()))
        for file in files
    ]
    against = references(opened[0], kinds, split)
    return [dict.fromkeys(kinds, 0.0)] + [
        delta_on(Comparison(JoinedTeachers(one), opened[0], kinds, split), against) for one in opened[1:]
    ]


def _table(candidates: Sequence[Candidate], best: Candidate | None, budget_ms: float) -> Table:
    table = Table(
        title=f"candidates for {budget_ms:g} ms a picture, points against fp32",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
    )
    for column in ("", "candidate", "latency", *candidates[0].deltas, "mean"):
        table.add_column(column, justify="left" if column in ("", "candidate") else "right")
    for one in candidates:
        mark = "✓" if one is best else "" if one.latency_ms <= budget_ms else "slow"
        points = [f"{delta:+.2f}" for delta in (*one.deltas.values(), one.points)]
        table.add_row(mark, one.name, f"{one.latency_ms:.2f} ms", *points)
    return table
