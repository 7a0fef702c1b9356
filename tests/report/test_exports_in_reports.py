"""Exported files stand in the report of their run, with what their certificates say."""

import json
from pathlib import Path
from typing import Any

import report_world

from distill_mtl.report.html import page
from distill_mtl.report.markdown import markdown
from distill_mtl.report.run_record import read_run
from distill_mtl.report.run_report import report_of

RUNTIME = {
    "version": "1.32.0",
    "rows": 3000,
    "largest_error": 3.8e-06,
    "changed_at_most": {"breed": 0.00099, "part": 0.0},
    "latency_ms": 3.14,
    "latency_rows": 1,
    "teachers_ms": 8.2,
}


def run_with_exports(folder: Path, **certificates: dict[str, Any]) -> Path:
    run = report_world.write_run(folder)
    (run / "export").mkdir()
    for name, said in certificates.items():
        path = run / "export" / f"{name}.certificate.json"
        path.write_text(json.dumps({"file": name, "precision": "fp32", "runtimes": {}} | said))
    return run


def test_files_stand_with_their_runtimes_in_every_writer(tmp_path: Path) -> None:
    run = read_run(
        run_with_exports(
            tmp_path / "run",
            onnx={"runtimes": {"onnxruntime": RUNTIME, "openvino": {**RUNTIME, "teachers_ms": None}}},
            program={},
        )
    )
    lines = [line for line in markdown(report_of(run)).splitlines() if line.startswith("| ")]
    first = next(line for line in lines if "onnxruntime" in line)
    assert all(
        part in first for part in ("onnx", "1.32.0", "3,000", "3.8e-06", "≤ 0.099 %", "3.1 ms", "8.2 ms")
    )
    assert any("openvino" in line and line.rstrip().endswith("– |") for line in lines)
    assert any("program" in line and "not run" in line for line in lines)
    assert "Exported files" in page(report_of(run))


def test_a_file_of_another_student_than_the_runs_is_not_shown_as_its_own(tmp_path: Path) -> None:
    found = {"runtimes": {"onnxruntime": RUNTIME}}
    run = run_with_exports(
        tmp_path / "run", old=found | {"student": {"model.safetensors": "0" * 64}}, new=found
    )
    said = markdown(report_of(read_run(run)))
    (old,) = (line for line in said.splitlines() if line.startswith("| ") and "old" in line)
    assert "of another student" in old
    assert "3.8e-06" not in old


def test_a_run_without_exports_has_no_such_section_and_a_broken_certificate_is_named(tmp_path: Path) -> None:
    run = report_world.write_run(tmp_path / "plain")
    assert "exports" not in [section.name for section in report_of(read_run(run)).sections]
    broken = run_with_exports(tmp_path / "broken", onnx={"runtimes": {"onnxruntime": {}}})
    (line,) = (
        line for line in markdown(report_of(read_run(broken))).splitlines() if "cannot be read" in line
    )
    assert line.startswith("| `onnx`")
