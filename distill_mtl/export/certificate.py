"""`FILE.certificate.json`: what was measured of an exported file, so that another machine can measure it again.

It names the file and the student by their hashes, and says for each runtime its version, how far its answers are from
the student's, how many rows were decided otherwise, and how many of all rows that can be. `verify` reads it.
"""

import hashlib
import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
from pydantic import ConfigDict, Field, PositiveInt
from pydantic.dataclasses import dataclass
from scipy.special import betaincinv
from torch import Tensor

from distill_mtl import __version__
from distill_mtl.errors import UserError, a_few
from distill_mtl.evaluation.cost import latencies_of
from distill_mtl.export.deployable import Deployable, Pixels
from distill_mtl.export.export_format import ExportRequest, StudentSource
from distill_mtl.export.file_runtimes import FileRuntime
from distill_mtl.export.parity import Difference, Parity, PictureBatch
from distill_mtl.export.reference import Reference
from distill_mtl.networks.inputs import LARGEST_SIDE
from distill_mtl.networks.weights import CONFIG, WEIGHTS, sha256
from distill_mtl.reading import Remedy, fit, read_json
from distill_mtl.run_notes import CERTIFICATE

_LEVEL = 0.95
_CLOSED = ConfigDict(extra="forbid", allow_inf_nan=False)
Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]


@dataclass(frozen=True, config=_CLOSED)
class RuntimeRecord:
    """A file in one runtime.

    Attributes:
        version: of the runtime.
        rows: different ones that were compared.
        batches: how many rows each batch had.
        outputs: each one beside the student's.
        largest_error: of all of them, in their own units.
        changed_at_most: by output that decides something, the share of all rows that may be decided otherwise, at 95 %.
        latency_ms: of one batch of `latency_rows` rows on this machine's CPU, the median.
        latency_rows: 1, or what the file takes.
        teachers_ms: of the teachers of these tasks in this runtime, added up; None: not measured.
    """

    version: str
    rows: int
    batches: list[int]
    outputs: dict[str, Difference]
    largest_error: float
    changed_at_most: dict[str, float]
    latency_ms: float
    latency_rows: int
    teachers_ms: float | None = None


@dataclass(frozen=True, config=_CLOSED)
class Certificate:
    """An exported file and its student.

    Attributes:
        distill_mtl: the version that wrote it.
        format: that `--to` takes.
        file: its name; it lies beside the certificate.
        files: sha256 of it and of what belongs to it, by name.
        source: the run's folder or the student's, from the certificate's folder.
        input_size: at which the student sees pictures (`--fit`); None: its own.
        student: sha256 of the student's files, by name.
        tasks: that the file answers.
        pixels, decode, batch, view, precision: as the file was asked for.
        data: shards whose rows were compared; empty: the run's test rows.
        rows: how many were asked for.
        rows_sha256: of their pixels.
        machine: processor, system and threads.
        runtimes: by the name that `--on` takes; none where the file was not run.
        reference: some rows and the student's answers, in FILE.certificate.npz; None: they are not recorded.
    """

    distill_mtl: str
    format: str
    file: str
    files: dict[str, str]
    source: str
    student: dict[str, str]
    tasks: list[str]
    pixels: Pixels
    decode: bool
    batch: Side | None
    view: tuple[Side, Side] | None
    input_size: tuple[Side, Side] | None
    precision: str
    data: list[str]
    rows: PositiveInt
    rows_sha256: str
    machine: str
    runtimes: dict[str, RuntimeRecord]
    reference: Reference | None = None

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def read_certificate(path: Path) -> Certificate:
    """A certificate that an export wrote.

    Raises:
        UserError: there is none, or it is no certificate.
    """
    give = f"Give FILE{CERTIFICATE}, which lies beside the exported FILE."
    if not path.exists() or path.is_dir():
        folder = path if path.is_dir() else path.parent
        there = [each.name for each in sorted(folder.glob(f"*{CERTIFICATE}"))]
        known = f" In {folder}: {a_few(there)}." if there else ""
        raise UserError(
            f"{path}{' is a folder' if path.is_dir() else ': there is no such file'}. {give}{known}"
        )
    if path.suffix != ".json":
        raise UserError(f"{path} is no certificate. {give}")
    remedy = Remedy("Export the student again.")
    content = read_json(path, remedy=remedy)
    if not isinstance(content, dict) or not {"file", "files", "runtimes"} <= content.keys():
        raise UserError(f"{path} is JSON, but no certificate of an export. {give}")
    found: Certificate = fit(content, Certificate, str(path), remedy=remedy)
    # A folder stands with each file below it.
    if not any(name == found.file or name.startswith(f"{found.file}/") for name in found.files):
        raise UserError(f"{path}: `files` has no sha256 of {found.file}. {remedy.mend}")
    return found


def certify(
    request: ExportRequest,
    module: Deployable,
    files: Sequence[Path],
    batches: Sequence[PictureBatch],
    runtimes: dict[str, RuntimeRecord],
    reference: Reference | None,
) -> Certificate:
    """What was measured of a file.

    Args:
        request: as it was asked for.
        module: what was exported.
        files: that belong together, the file itself among them; a folder counts as its files.
        batches: the rows that were compared.
        runtimes: what was found in each.
        reference: as it was recorded.
    """
    place = Path(os.path.realpath(request.out)).parent
    return Certificate(
        distill_mtl=__version__,
        format=request.format,
        file=request.out.name,
        files=hashes(files),
        source=os.path.relpath(request.source.place, place),
        student=student_hashes(request.source),
        tasks=list(module.kinds),
        pixels=module.pixels,
        decode=module.decode,
        batch=module.batch,
        view=None if module.pixels == "normalised" else module.view,
        input_size=request.source.size,
        precision="int8" if request.int8 else "fp32",
        data=[os.path.abspath(entry) if os.path.exists(entry) else entry for entry in request.data],
        rows=request.rows,
        rows_sha256=rows_hash(batches),
        machine=f"{platform.machine()}, {platform.system()}, {torch.get_num_threads()} threads",
        runtimes=runtimes,
        reference=reference,
    )


def record(
    runtime: FileRuntime,
    found: Parity,
    run: Callable[[Tensor], object],
    module: Deployable,
    batches: Sequence[PictureBatch],
) -> RuntimeRecord:
    """What `check_parity` found, with its bounds and the time of a pass."""
    rows = module.batch or 1
    # A batch of a fixed number of rows may hold some of them twice, which tell no more.
    different = len({key for batch in batches for key in batch.keys})
    return RuntimeRecord(
        version=str(runtime.version),
        rows=different,
        batches=found.batches,
        outputs=found.outputs,
        largest_error=max(output.largest for output in found.outputs.values()),
        changed_at_most={
            name: upper_bound(output.rows_changed, different)
            for name, output in found.outputs.items()
            if output.decisions
        },
        latency_ms=latencies_of([partial(run, module.taken(batches[-1].images[:rows]))])[0],
        latency_rows=rows,
    )


def upper_bound(changed: int, rows: int) -> float:
    """The largest share of all rows that fits `changed` of `rows` at 95 %, one-sided, exact (Clopper, Pearson 1934).

    Of 0 it is 1 - 0.05^(1/rows), about 3 / rows.
    """
    return 1.0 if changed >= rows else float(betaincinv(changed + 1, rows - changed, _LEVEL))


def lower_bound(changed: int, rows: int) -> float:
    """The smallest such share."""
    return 0.0 if changed == 0 else float(betaincinv(changed, rows - changed + 1, 1 - _LEVEL))


def hashes(files: Sequence[Path]) -> dict[str, str]:
    """Sha256 by name; of a folder each file below it."""
    found = dict[str, str]()
    for file in sorted(files):
        inside = sorted(path for path in file.rglob("*") if path.is_file()) if file.is_dir() else [file]
        found |= {path.relative_to(file.parent).as_posix(): sha256(path) for path in inside}
    return found


def student_hashes(source: StudentSource) -> dict[str, str]:
    """Of the files that decide a student's answers."""
    return hashes([path for name in (CONFIG, WEIGHTS) if (path := source.folder / name).is_file()])


def rows_hash(batches: Sequence[PictureBatch]) -> str:
    """Of the pixels of all rows, as bytes."""
    whole = hashlib.sha256()
    for batch in batches:
        whole.update((batch.images * 255).round().to(torch.uint8).contiguous().numpy().tobytes())
    return whole.hexdigest()
