"""`--to triton`: the configuration is Triton's own schema, says what the file takes and gives, and the server's
folder is complete."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import export_toys
import onnxruntime
import pytest
import torch
from rich.console import Console

from distill_mtl import load_student
from distill_mtl.errors import ExportError
from distill_mtl.jobs.export import export_student
from distill_mtl.jobs.verify import verify_export

QUIET = Console(quiet=True)
NUMPY = {"TYPE_FP32": "tensor(float)", "TYPE_INT64": "tensor(int64)", "TYPE_UINT8": "tensor(uint8)"}


@pytest.fixture(scope="module")
def schema() -> ModuleType:
    """Triton's model_config.proto, from the wheel of its client, without the client."""
    client = importlib.util.find_spec("tritonclient")
    if client is None or client.origin is None:
        pytest.skip("the schema comes with tritonclient")
    file = Path(client.origin).parent / "grpc" / "model_config_pb2.py"
    found = importlib.util.spec_from_file_location("triton_model_config", file)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def parsed(schema: ModuleType, model: Path) -> Any:
    from google.protobuf import text_format

    return text_format.Parse((model / "config.pbtxt").read_text(), schema.ModelConfig())


def test_every_input_and_output_of_the_file_is_in_the_configuration(
    tmp_path: Path, world: Path, schema: ModuleType
) -> None:
    run = export_toys.run_folder(tmp_path / "all kinds", export_toys.student(), world)
    data = [str(world / "pool-test.tar")]
    out = export_student(run, "triton", decode=True, preprocess="uint8", rows=6, data=data, console=QUIET)
    model = out / "all kinds"
    assert out == run / "export" / "all kinds-triton"
    beside = {"model.onnx.certificate.json", "model.onnx.certificate.npz"}
    assert {path.name for path in (model / "1").iterdir()} == {"model.onnx", *beside}
    config = parsed(schema, model)
    assert (config.name, config.backend, config.max_batch_size) == ("all kinds", "onnxruntime", 64)
    assert config.HasField("dynamic_batching")
    session = onnxruntime.InferenceSession(model / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    theirs = [*session.get_inputs(), *session.get_outputs()]
    ours = [*config.input, *config.output]
    assert [value.name for value in ours] == [value.name for value in theirs]
    for mine, value in zip(ours, theirs, strict=True):
        assert NUMPY[schema.DataType.Name(mine.data_type)] == value.type, value.name
        dims = [side if isinstance(side, int) else -1 for side in value.shape[1:]]
        assert list(mine.dims) == (dims or [1]), value.name
        assert mine.HasField("reshape") == (not dims), value.name
    named = {value.name: value.label_filename for value in config.output if value.label_filename}
    assert named["breed"] == named["breed.probabilities"] == "breed.txt"
    assert "part" not in named
    for file in named.values():
        assert len((model / file).read_text().splitlines()) > 0
    classes = load_student(run / "student").classes["breed"]
    assert tuple((model / "breed.txt").read_text().splitlines()) == classes


def test_a_file_of_one_number_of_rows_is_not_batched(run: Path, schema: ModuleType) -> None:
    out = export_student(run, "triton", batch=4, rows=8, console=QUIET)
    config = parsed(schema, out / run.name)
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert config.input[0].dims[0] == 4
    assert next(value for value in config.output if value.name == "hue").label_filename == "hue.txt"


def test_a_repository_keeps_its_other_models(run: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    (models / "other" / "1").mkdir(parents=True)
    export_student(run, "triton", out=models, rows=6, int8=True, calibration=8, console=QUIET)
    assert {path.name for path in models.iterdir()} == {"other", run.name}
    assert export_toys.note_of(models / run.name / "1" / "model.onnx")["precision"] == "int8"
    assert (models / run.name / "1" / "model.onnx.results.json").is_file()
    certificate = models / run.name / "1" / "model.onnx.certificate.json"
    assert verify_export(certificate, console=QUIET).accepted
    with pytest.raises(ExportError, match="exists. Replace it with --overwrite"):
        export_student(run, "triton", out=models, rows=6, console=QUIET)
    export_student(run, "triton", out=models, rows=6, overwrite=True, console=QUIET)
    images = torch.rand(3, 3, 8, 8)
    given = export_toys.run_file(
        models / run.name / "1" / "model.onnx", load_student(run / "student").student.trunk.preprocess(images)
    )
    assert torch.allclose(given["hue"], load_student(run / "student")(images)["hue"]["logits"], atol=1e-4)
    (models / run.name / "config.pbtxt").unlink()
    with pytest.raises(ExportError, match="holds no model of Triton"):
        export_student(run, "triton", out=models, rows=6, overwrite=True, console=QUIET)
