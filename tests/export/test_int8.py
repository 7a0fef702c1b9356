"""`--int8`: smaller, run by ONNX Runtime, and its loss in the evaluation's table."""

import json
from pathlib import Path

import export_toys
import onnx
import pytest
import torch
from rich.console import Console

from distill_mtl import load_student
from distill_mtl.cli import main
from distill_mtl.errors import ExportError
from distill_mtl.jobs.export import export_student
from distill_mtl.networks.runtimes.onnx_file import OnnxRuntime
from distill_mtl.networks.runtimes.openvino_file import OpenVinoRuntime


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


def test_pictures_are_resized_in_floating_point(tmp_path: Path, world: Path) -> None:
    """With one size of pictures the resize is two products with constants, as a layer is."""
    run = export_toys.toy_run(tmp_path / "run", world, "test_resnet")
    file = export_student(
        run,
        "onnx",
        int8=True,
        preprocess="float",
        size="40x48",
        batch=2,
        calibration=9,
        rows=6,
        data=[str(world / "pool-test.tar")],
        console=Console(quiet=True),
    )
    graph = onnx.load(file).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    products = [node for node in graph.node if node.op_type == "MatMul"]
    assert len(products) == 2
    assert not any(makers.get(name) == "DequantizeLinear" for node in products for name in node.input)
    assert any(node.op_type == "DequantizeLinear" for node in graph.node)


def test_sums_of_a_transformer_stay_in_floating_point(tmp_path: Path, world: Path) -> None:
    run = export_toys.toy_run(tmp_path / "run", world, "test_vit")
    data = [str(world / "pool-test.tar")]
    file = export_student(
        run, "onnx", int8=True, calibration=8, rows=6, data=data, console=Console(quiet=True)
    )
    graph = onnx.load(file).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    rounded = [makers.get(node.input[0]) for node in graph.node if node.op_type == "QuantizeLinear"]
    assert "Add" not in rounded
    assert {"Gemm", "MatMul"} & set(rounded)


def test_openvino_runs_the_same_8_bits(
    tmp_path: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = export_toys.toy_run(tmp_path / "run", world, "test_resnet")
    options = {"int8": True, "calibration": 40, "rows": 8}
    file = export_student(run, "openvino", **options)
    assert "int8 (student) against fp32 (teacher)" in capsys.readouterr().out
    assert {path.suffix for path in file.parent.iterdir()} == {".xml", ".bin", ".json", ".npz"}
    batch = torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    theirs = OnnxRuntime(export_student(run, "onnx", **options))(batch)
    ours, fp32 = OpenVinoRuntime(file)(batch), load_student(run / "student").student.trunk
    wanted = load_student(run / "student").student
    with torch.no_grad():
        exact = {task: head(fp32.of(task, fp32.read(batch))) for task, head in wanted.heads.items()}
    for task, answer in exact.items():
        away = (ours[task] - answer).abs().mean()
        assert 0 < away < 0.2 * answer.abs().mean()
        assert (ours[task] - theirs[task]).abs().mean() < away


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
