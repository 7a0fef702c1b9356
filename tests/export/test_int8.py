"""`--int8`: smaller, run by ONNX Runtime, and its loss in the evaluation's table."""

import json
from pathlib import Path

import export_toys
import pytest
import torch
from rich.console import Console

from distill_mtl import load_student
from distill_mtl.cli import main
from distill_mtl.errors import ExportError
from distill_mtl.jobs.export import export_student
from distill_mtl.networks.runtimes.onnx_file import OnnxRuntime


def test_an_int8_file_is_smaller_and_its_loss_is_in_the_table(
    tmp_path: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = export_toys.toy_run(tmp_path / "run", world, "test_resnet")
    with pytest.raises(SystemExit) as ended:
        main(f"export {run} --to onnx --int8 --calibration 40 --rows 8 --decode --preprocess".split())
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "int8 (student) against fp32 (teacher)" in shown
    assert "accuracy" in shown
    assert "miou" in shown
    file = run / "export" / "run-int8.onnx"
    note = export_toys.note_of(file)
    assert (note["precision"], note["decode"]) == ("int8", True)
    batch = torch.rand(20, 3, 50, 40)
    given, wanted = export_toys.run_file(file, batch), load_student(run / "student")(batch)
    apart = (given["hue"] - wanted["hue"]["logits"]).abs().max() / wanted["hue"]["logits"].abs().max()
    assert 0 < apart < 0.2
    learned = sum(p.numel() for p in load_student(run / "student").student.parameters())
    runtime = OnnxRuntime(file)
    assert runtime.parameter_count == pytest.approx(learned, rel=0.02)
    assert runtime.parameter_bytes < 2 * learned
    results = json.loads(Path(f"{file}.results.json").read_text())
    assert set(results["tasks"]) == {"hue", "shape"}
    assert (
        results["cost"]["student"]["bytes"] == file.stat().st_size < results["cost"]["teachers"]["bytes"] / 2
    )


def test_without_labelled_rows_the_loss_is_shown_in_decisions(
    tmp_path: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = export_toys.toy_run(tmp_path / "run", world, "test_resnet")
    export_student(run, "onnx", int8=True, rows=6, calibration=8, data=[str(world / "pool-test.tar")])
    said = capsys.readouterr().out
    assert f"evaluate --student {run}/export/run-int8.onnx --against {run} --data hue=SHARDS shape=" in said


def test_a_student_that_fits_no_single_file_is_not_quantised(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill_mtl.export.formats.onnx.LARGEST", 10)
    with pytest.raises(ExportError, match="more than 2 GB"):
        export_student(run, "onnx", int8=True, rows=6, console=Console(quiet=True))
    assert not (run / "export").exists()
