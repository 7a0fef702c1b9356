"""`--to triton`: a model of a Triton repository, the ONNX file with its configuration; needs the extra [onnx]."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from distill_mtl.errors import ExportError
from distill_mtl.export.export_format import FORMATS, ExportRequest
from distill_mtl.export.formats.onnx import Onnx
from distill_mtl.files import atomic_folder
from distill_mtl.networks.runtimes.onnx_file import package
from distill_mtl.tasks.base import TaskKind

CONFIG = "config.pbtxt"
MOST_ROWS = 64
"""Largest batch that the server makes of waiting requests."""
_TYPES = {"FLOAT": "FP32", "FLOAT16": "FP16", "DOUBLE": "FP64"}
"""ONNX's names of types -> Triton's, where they differ."""


@FORMATS.register("triton")
class Triton(Onnx):
    """OUT/NAME with `config.pbtxt`, `1/model.onnx` and the classes of each task, a line each, in `TASK.txt`.

    OUT may hold other models; NAME is the run's. Requests that wait are answered in one batch.
    """

    name = "triton"
    ending = "-triton"
    words = "ONNX"
    extra = "onnx"

    def export(self, request: ExportRequest) -> None:
        place = request.out / request.source.name
        if place.exists() and not (place / CONFIG).is_file():
            raise ExportError(
                f"{place} exists and holds no model of Triton. Choose another folder with --out."
            )
        if place.exists() and not request.overwrite:
            raise ExportError(
                f"{place} exists. Replace it with --overwrite, or choose another folder with --out."
            )
        with atomic_folder(place) as made:
            version = made / "1"
            version.mkdir()
            file = version / f"model{Onnx.ending}"
            self.make(replace(request, out=place / version.name / file.name), version)
            for task, kind in request.student.kinds.items():
                if kind.classes:
                    lines = "".join(f"{' '.join(name.split())}\n" for name in kind.classes)
                    (made / f"{task}.txt").write_text(lines, encoding="utf-8")
            text = "\n".join(configuration(request.source.name, file, request.student.kinds)) + "\n"
            (made / CONFIG).write_text(text, encoding="utf-8")
        size = sum(part.stat().st_size for part in (place / "1").iterdir())
        request.console.print(f"{place}  ({size / 1e6:.2f} MB)", soft_wrap=True)


def configuration(name: str, file: Path, kinds: dict[str, TaskKind]) -> Iterator[str]:
    """The lines of config.pbtxt (`ModelConfig` of Triton's model_config.proto in text form), from the file's graph.

    Args:
        name: of the model, which is that of its folder.
        file: in ONNX. Where its number of rows is open, the server batches; else a request has just so many.
        kinds: task -> its kind; answers with one number for each class name the file of the classes.
    """
    graph = package("onnx").load(file, load_external_data=False).graph
    batched = not graph.input[0].type.tensor_type.shape.dim[0].dim_value
    yield f"name: {_quoted(name)}"
    yield 'backend: "onnxruntime"'
    yield f"max_batch_size: {MOST_ROWS if batched else 0}"
    for value in graph.input:
        yield from _tensor("input", value, batched)
    for value in graph.output:
        kind = kinds[value.name.partition(".")[0]]
        yield from _tensor("output", value, batched, kind)
    if batched:
        yield "dynamic_batching { }"


def _tensor(side: str, value: Any, batched: bool, kind: TaskKind | None = None) -> Iterator[str]:
    onnx, tensor = package("onnx"), value.type.tensor_type
    dims = [dim.dim_value or -1 for dim in tensor.shape.dim][1 if batched else 0 :]
    said = onnx.TensorProto.DataType.Name(tensor.elem_type)
    yield f"{side} {{"
    yield f"  name: {_quoted(value.name)}"
    yield f"  data_type: TYPE_{_TYPES.get(said, said)}"
    # A tensor has at least one dimension in Triton's protocol.
    yield f"  dims: [{', '.join(map(str, dims or [1]))}]"
    if not dims:
        yield "  reshape { shape: [] }"
    if kind is not None and kind.classes and dims[-1:] == [len(kind.classes)] and len(dims) == 2 - batched:
        yield f"  label_filename: {_quoted(value.name.partition('.')[0] + '.txt')}"
    yield "}"


def _quoted(text: str) -> str:
    """A string of protobuf's text form."""
    return json.dumps(text, ensure_ascii=False)
