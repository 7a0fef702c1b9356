"""`--fit 5ms`: candidates at several sizes and precisions, the best of those that keep the budget is exported."""

import re
from dataclasses import replace
from pathlib import Path

import export_toys
import pytest
import torch
from rich.console import Console

from distill_mtl.errors import ExportError
from distill_mtl.export import fit
from distill_mtl.export.export_format import find_student, only_tasks
from distill_mtl.jobs.export import export_student
from distill_mtl.jobs.verify import verify_export

QUIET = Console(quiet=True)
LATENCIES = [4.0, 3.0, 2.0, 1.0]


@pytest.fixture
def told_latencies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files take these milliseconds: fp32 at 8 and 4 pixels, int8 at 8 and 4."""
    monkeypatch.setattr(fit, "latencies_of", lambda passes: LATENCIES[: len([one() for one in passes])])


def means(shown: str) -> dict[str, float]:
    """Candidate -> the last column of the table."""
    rows = re.findall(r"((?:fp32|int8) \d+x\d+) .* ([+-]?[\d.]+)\s*$", shown, re.M)
    return {name: float(mean) for name, mean in rows}


def test_the_best_within_the_budget_is_exported(
    run: Path, told_latencies: None, capsys: pytest.CaptureFixture[str]
) -> None:
    file = export_student(run, "onnx", fit="2.5ms", rows=6, calibration=8)
    shown = capsys.readouterr().out
    found = means(shown)
    assert list(found) == ["fp32 8x8", "fp32 4x4", "int8 8x8", "int8 4x4"]
    assert found["fp32 8x8"] == 0
    best = max(("int8 8x8", "int8 4x4"), key=lambda name: found[name])
    assert re.search(rf"✓ +{best}", shown)
    assert shown.count("slow") == 2
    assert file.name == ("toy-int8.onnx" if best == "int8 8x8" else "toy-int8-4x4.onnx")
    note = export_toys.note_of(file)
    assert note["precision"] == "int8"
    assert note["inputs"]["size"] == [int(side) for side in best.split()[1].split("x")]


def test_a_smaller_input_is_checked_against_the_student_at_that_size(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "latencies_of", lambda passes: [9.0, 1.0, 9.0, 9.0])
    file = export_student(
        run, "onnx", fit="2ms", preprocess="float", only="hue", rows=6, calibration=8, console=QUIET
    )
    assert file.name == "toy-hue-4x4.onnx"
    assert verify_export(Path(f"{file}.certificate.json"), console=QUIET).accepted


@pytest.mark.parametrize("only", [["shape"], ["hue", "shape"]])
def test_a_student_at_another_size_reads_the_layers_that_it_was_trained_with(
    tmp_path: Path, world: Path, only: list[str]
) -> None:
    source = find_student(export_toys.toy_run(tmp_path / "run", world, "test_resnet"))
    own = only_tasks(source.load(), only)
    small = only_tasks(replace(source, size=(16, 12)).load(), only)
    assert small.trunk.inputs.size == (16, 12)
    assert small.trunk.returns == own.trunk.returns
    with torch.no_grad():
        answers = small(torch.rand(2, 3, 40, 40))
    assert list(answers) == only
    assert all(torch.equal(*both) for both in zip(small.parameters(), own.parameters(), strict=True))


def test_nothing_fits_is_one_line_with_the_fastest(run: Path, told_latencies: None) -> None:
    with pytest.raises(ExportError, match=r"nothing answers within 0.5 ms.*fastest is int8 4x4, 1.00 ms"):
        export_student(run, "onnx", fit="0.5ms", rows=6, calibration=8, console=QUIET)
    assert not (run / "export").exists()


def test_mistakes_are_refused_before_anything_is_measured(run: Path, world: Path) -> None:
    for said in ("5", "fast", "0ms", "-1ms"):
        with pytest.raises(ExportError, match=r"expected a time for one picture"):
            export_student(run, "onnx", fit=said, console=QUIET)
    with pytest.raises(ExportError, match="Leave out --int8"):
        export_student(run, "onnx", fit="5ms", int8=True, console=QUIET)
    with pytest.raises(ExportError, match="leave out --data"):
        export_student(run, "onnx", fit="5ms", data=[str(world / "pool-test.tar")], console=QUIET)
    with pytest.raises(
        ExportError, match=r"--fit has no meaning for --to torchscript; it is for onnx, openvino, triton"
    ):
        export_student(run, "torchscript", fit="5ms", console=QUIET)
    assert fit.as_milliseconds("1s") == 1000
    assert fit.as_milliseconds("0.5 ms") == 0.5
