"""`distill-mtl verify`: whether an exported file still answers as its certificate says, on this machine."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from distill_mtl.display import output
from distill_mtl.errors import ExportError, UserError
from distill_mtl.export.certificate import read_certificate, student_hashes
from distill_mtl.export.deployable import remove_unread
from distill_mtl.export.export_format import FORMATS, ExportRequest, find_student, only_tasks
from distill_mtl.export.graph_format import GraphFormat
from distill_mtl.export.parity import RealRows
from distill_mtl.export.verification import (
    PictureRows,
    Verification,
    changed_files,
    verify_alone,
    verify_answers,
)


def verify_export(
    certificate: Path | str,
    *,
    pictures: Sequence[str] = (),
    student: Path | None = None,
    trust: bool = False,
    console: Console | None = None,
) -> Verification:
    """Measure again what the certificate of an export says.

    Compare file, student and the versions of the runtimes with the certificate beside an export, run the file on real
    rows in each of these runtimes, and compare its answers with the student's. Where the student is not here, they are
    compared with its answers that were recorded beside the certificate (FILE.certificate.npz). More: docs/export.md.

    Args:
        certificate (CERTIFICATE): FILE.certificate.json, beside the exported file.
        pictures (FOLDER ...): compare on these pictures, in place of the rows that were certified.
        student (FOLDER): the run or the student, where it lies elsewhere than the certificate says.
        trust: let the code of your own kinds of task run, and .pt2 and .ts files.
        console: where to say what was found; default standard output.

    Returns:
        What was found; `accepted` if all holds.

    Raises:
        UserError: the certificate, the student or what was recorded cannot be read, or the file was never run.

    Examples:
        again on the run's own rows; on another machine, on the rows recorded beside it; there on its own pictures:
          distill-mtl verify runs/A/export/A.onnx.certificate.json
          distill-mtl verify A.onnx.certificate.json
          distill-mtl verify A.onnx.certificate.json --student student --pictures photos

        Exit status 3 where something does not hold: each is named.
    """
    path, said = Path(certificate), console or output()
    found = read_certificate(path)
    if not found.runtimes:
        raise UserError(f"{path} names no runtime: the file was never run, so there is nothing to verify.")
    file = path.parent / found.file
    if file.suffix in (".pt2", ".ts") and not trust:
        raise UserError(
            f"{file} is a program, which runs with all your rights. If you trust its origin, add --trust."
        )
    place = student or path.parent / found.source
    source, alone = None, found.reference is not None and not pictures
    try:
        source = replace(find_student(place, trust=trust), size=found.input_size)
    except ExportError as error:
        if student is not None:
            raise
        if not alone:
            way = (
                ", or leave out --pictures: the file is then compared on the rows recorded beside the certificate"
                if found.reference is not None
                else ""
            )
            raise UserError(
                f"{path} says that the student lies in {place}, and it does not. Name its folder with --student{way}."
            ) from error
    failures = changed_files(found, path.parent, None if source is None else student_hashes(source))
    if failures:
        verification = Verification(failures)
    elif source is None:
        verification = verify_alone(found, file, trust=trust)
    else:
        request = ExportRequest(
            format=found.format,
            source=source,
            student=only_tasks(source.load(), found.tasks),
            out=file,
            pixels=found.pixels,
            decode=found.decode,
            int8=found.precision == "int8",
            rows=found.rows,
            calibration=1,
            data=found.data,
            overwrite=False,
            console=said,
            batch=found.batch,
            view=found.view,
        )
        remove_unread(request.student.trunk)
        chosen = FORMATS[found.format]()
        if not isinstance(chosen, GraphFormat):
            raise UserError(
                f"{path}: `format` is {found.format}, whose exports are not run. Export the student again."
            )
        module = chosen.module(request)
        rows = (
            PictureRows(request, pictures)
            if pictures
            else RealRows(request, "Compare on other pictures with --pictures.")
        )
        verification = verify_answers(found, request, module, rows, request.out, own=not pictures)
    for name, parity in verification.found.items():
        said.print(parity.table(f"{found.file} in {name}"))
    for name, text in verification.failures.items():
        said.print(f"{name}: {text}", style="red", soft_wrap=True, markup=False, highlight=False)
    if verification.accepted:
        told = (
            f", on {next(iter(verification.found.values())).rows} rows that were recorded with the student's answers: "
            f"the student itself is not here ({place})"
            if source is None
            else ""
        )
        said.print(f"{found.file} answers as certified{told}.", soft_wrap=True, highlight=False)
    return verification
