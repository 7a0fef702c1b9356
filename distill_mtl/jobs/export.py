"""`distill-mtl export`: from a run's folder to a file that a serving stack reads."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from distill_mtl.display import output
from distill_mtl.errors import ExportError
from distill_mtl.export.deployable import Pixels
from distill_mtl.export.export_format import FORMATS, Order, find_trained, only


def export(
    path: Path | str,
    to: str,
    *,
    out: Path | None = None,
    tasks: Sequence[str] | None = None,
    pixels: Pixels = "normalised",
    decode: bool = False,
    int8: bool = False,
    rows: int = 64,
    calibration: int = 256,
    data: Sequence[str] = (),
    overwrite: bool = False,
    trust: bool = False,
    repo: str | None = None,
    private: bool = False,
    license: str | None = None,
    console: Console | None = None,
) -> Path:
    """Export a student, and check what was written; see `Order` for the rest.

    Args:
        path: `runs/NAME`, or a student's folder.
        to: the format, by its name.
        out: where to; None: `runs/NAME/export/NAME`, with the tasks where not all are exported.
        tasks: to be exported; None: all.
        trust: let the code of kinds of the user's own run.
        console: where to say what is done; None: standard output.

    Returns:
        What was written.

    Raises:
        UserError: something is missing, the student has no such form, or what was written does not answer as it does.
    """
    chosen = FORMATS[to]()
    asked = {
        "preprocess": pixels != "normalised",
        "decode": decode,
        "int8": int8,
        "data": bool(data),
        "repo": repo is not None,
        "private": private,
        "license": license is not None,
    }
    _refuse_meaningless(to, [option for option, given in asked.items() if given])
    chosen.refuse_missing()
    trained = find_trained(Path(path), trust=trust)
    student = only(trained.load(), list(tasks) if tasks is not None else None)
    name = "-".join(
        [trained.name, *(student.kinds if tasks is not None else ()), *(["int8"] if int8 else [])]
    )
    place = out or trained.home / "export" / f"{name}{chosen.ending}"
    chosen.export(
        Order(
            trained=trained,
            student=student,
            out=place,
            pixels=pixels,
            decode=decode,
            int8=int8,
            rows=rows,
            calibration=calibration,
            data=data,
            overwrite=overwrite,
            console=console or output(),
            repo=repo,
            private=private,
            license=license,
        )
    )
    return place


def _refuse_meaningless(to: str, asked: Sequence[str]) -> None:
    """Refuse options that a format has no use for."""
    for option in asked:
        if option not in FORMATS[to].options:
            able = [name for name in FORMATS.names() if option in FORMATS[name].options]
            raise ExportError(
                f"--{option} means nothing for --to {to}; it is for {', '.join(able)}. Remove it."
            )
