"""The exported files of a run, in each runtime in which they were compared with the student."""

from typing import Any

from distill_mtl.networks.weights import sha256
from distill_mtl.report.blocks import Cell, Section, Table, Text
from distill_mtl.report.run_record import RunRecord
from distill_mtl.report.sections import section

_COLUMNS = ("file", "runtime", "rows", "largest error", "rows changed, 95 %", "latency", "teachers")
_WORDS = frozenset({"file", "runtime"})


@section(45)
def exports(run: RunRecord) -> Section | None:
    """A line for each file and runtime."""
    if not run.exports:
        return None
    rows: list[list[Cell]] = []
    for said in run.exports:
        if "runtimes" not in said:
            broken = Cell("its certificate cannot be read: export it again", "bad")
            rows.append([Cell(said["file"], "code"), broken, *[Cell("–")] * 5])
        elif _is_stale(run, said):
            rows.append([Cell(said["file"], "code"), Cell("of another student", "bad"), *[Cell("–")] * 5])
        elif said["runtimes"]:
            rows += [_cells(said, name, found) for name, found in said["runtimes"].items()]
        else:
            rows.append([Cell(said["file"], "code"), Cell("not run"), *[Cell("–")] * 5])
    told = Text(
        "Each file beside the student. Rows changed: the largest share of all rows that any output may decide "
        "otherwise, from the rows that were compared. Latency: the median pass on the CPU of the machine that wrote "
        "the file. distill-mtl verify FILE.certificate.json measures it again.",
        quiet=True,
    )
    return Section("exports", "Exported files", [Table("Exported files", _COLUMNS, rows, _WORDS), told])


def _is_stale(run: RunRecord, said: dict[str, Any]) -> bool:
    """Whether the run has another student than the one that was certified, as after --overwrite. Exports with
    --finetune are of the one that was trained on for 8 bits."""
    if run.files is None:
        return False
    expected = said.get("student", {}).items()
    students = (run.files.student, run.files.for_int8 / run.files.student.name)
    return not any(
        all((folder / name).is_file() and sha256(folder / name) == known for name, known in expected)
        for folder in students
    )


def _cells(said: dict[str, Any], name: str, found: dict[str, Any]) -> list[Cell]:
    most, teachers = max(found["changed_at_most"].values(), default=None), found.get("teachers_ms")
    rows = "" if found["latency_rows"] == 1 else f"{found['latency_rows']} rows"
    return [
        Cell(said["file"], "code", aside="" if said["precision"] == "fp32" else said["precision"]),
        Cell(name, aside=found["version"]),
        Cell(f"{found['rows']:,}"),
        Cell(f"{found['largest_error']:.1e}"),
        Cell("–" if most is None else f"≤ {100 * most:.2g} %"),
        Cell(f"{found['latency_ms']:.1f} ms", aside=rows),
        Cell("–" if teachers is None else f"{teachers:.1f} ms"),
    ]
