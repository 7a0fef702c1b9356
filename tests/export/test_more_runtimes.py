"""Exports for OpenVINO, LiteRT, ExecuTorch and Core ML: each in its own runtime, where this system has it."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from rich.console import Console

from distill_mtl import load_student
from distill_mtl.errors import ExportError, UserError
from distill_mtl.jobs.export import export_student
from distill_mtl.jobs.verify import verify_export
from distill_mtl.networks.opening import open_network
from distill_mtl.networks.runtime import RUNTIMES

QUIET = Console(quiet=True)
CONVERTERS = {"openvino": "openvino", "litert": "litert_torch", "executorch": "executorch"}
VIEW = (21, 30)


def installed(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed")


RUN_HERE = [pytest.param(to, marks=installed(package)) for to, package in CONVERTERS.items()]


@pytest.mark.parametrize("to", RUN_HERE)
def test_bytes_in_and_answers_out_are_the_students(exported: Callable[..., Path], to: str) -> None:
    file = exported(to, preprocess="uint8", decode=True, batch=2, size="21x30")
    runtime = RUNTIMES[file.suffix](file)
    batch = torch.randint(256, (2, 3, *VIEW), dtype=torch.uint8)
    given = runtime(batch)
    with torch.no_grad():
        wanted = load_student(file.parent / "student")(batch.float() / 255)
    assert torch.allclose(given["hue"], wanted["hue"]["logits"], atol=1e-4)
    assert torch.allclose(given["hue.probabilities"], wanted["hue"]["probabilities"], atol=1e-4)
    assert torch.equal(given["hue.label"].long(), wanted["hue"]["label"])
    assert (given["shape.label"].long() == wanted["shape"]["label"]).float().mean() > 0.99


@pytest.mark.parametrize("to", RUN_HERE)
def test_an_exported_file_opens_as_a_network_with_its_tasks(exported: Callable[..., Path], to: str) -> None:
    file = exported(to, preprocess="uint8", decode=True, batch=2, size="21x30")
    opened = open_network(file)
    assert list(opened.tasks) == ["hue", "shape"]
    assert opened.inputs.size == VIEW
    assert opened.inputs.batch == 2


@pytest.mark.parametrize("to", RUN_HERE)
def test_a_certificate_is_verified_in_its_runtime(exported: Callable[..., Path], to: str) -> None:
    file = exported(to, preprocess="uint8", decode=True, batch=2, size="21x30")
    found = verify_export(Path(f"{file}.certificate.json"), console=QUIET)
    assert found.accepted, found.failures
    assert set(found.found) == {to}


@installed("coremltools")
def test_a_core_ml_program_is_written_and_nothing_is_claimed(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import coremltools

    for overwrite in (False, True):
        file = export_student(
            run, "coreml", decode=True, rows=4, overwrite=overwrite, console=Console(width=200)
        )
        assert "is not run on this system" in capsys.readouterr().out
    model = coremltools.models.MLModel(str(file), skip_model_load=True)
    described = model.get_spec().description
    assert [entry.name for entry in described.output] == [
        "hue", "hue_probabilities", "hue_label", "shape", "shape_label"
    ]  # fmt: skip
    assert json.loads(model.user_defined_metadata["distill_mtl"])["inputs"]["batch"] == 1
    with pytest.raises(ExportError, match="takes no tensor of bytes"):
        export_student(
            run, "coreml", preprocess="uint8", size="21x30", out=run / "bytes.mlpackage", console=QUIET
        )


def test_what_a_runtime_or_a_format_does_not_take_is_refused(run: Path) -> None:
    with pytest.raises(ExportError, match="--on openvin: .* Did you mean 'openvino'?"):
        export_student(run, "onnx", on="openvin", console=QUIET)
    with pytest.raises(ExportError, match="--on litert: --to onnx is not checked in it"):
        export_student(run, "onnx", on="litert", console=QUIET)
    with pytest.raises(ExportError, match="--on : --to onnx is not checked in it"):
        export_student(run, "onnx", on=",", console=QUIET)
    with pytest.raises(ExportError, match="--batch 1000000: expected at most 16,384 rows"):
        export_student(run, "onnx", batch=1_000_000, console=QUIET)
    with pytest.raises(ExportError, match="--size 480y640: expected height and width"):
        export_student(run, "onnx", preprocess="float", size="480y640", console=QUIET)
    with pytest.raises(ExportError, match="--size is for pictures that the file preprocesses"):
        export_student(run, "onnx", size="480x640", console=QUIET)


@installed("executorch")
def test_what_is_no_whole_program_is_refused(exported: Callable[..., Path], tmp_path: Path) -> None:
    whole = exported("executorch", preprocess="uint8", decode=True, batch=2, size="21x30").read_bytes()
    for content, said in (
        (whole[: len(whole) // 2], "truncated"),
        (b"words" * 900, "no ExecuTorch program"),
        (b"", "no"),
    ):
        (tmp_path / "broken.pte").write_bytes(content)
        with pytest.raises(UserError, match=said):
            RUNTIMES[".pte"](tmp_path / "broken.pte")


@installed("executorch")
def test_a_format_with_one_size_asks_for_it(run: Path) -> None:
    with pytest.raises(
        ExportError, match="--to executorch takes pictures of one height and width.*--size 480x640"
    ):
        export_student(run, "executorch", preprocess="float", console=QUIET)


def test_one_file_is_checked_in_two_runtimes(exported: Callable[..., Path]) -> None:
    file = exported("onnx", preprocess="uint8", decode=True, on="onnxruntime,openvino")
    assert set(json.loads(Path(f"{file}.certificate.json").read_text())["runtimes"]) == {
        "onnxruntime",
        "openvino",
    }
