"""`--to onnx`: a file for ONNX Runtime and whatever else reads ONNX; needs the extra [onnx]."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill_mtl.errors import ExportError
from distill_mtl.export.deployable import INPUT, Deployable
from distill_mtl.export.export_format import FORMATS
from distill_mtl.export.graph_format import recorded_program
from distill_mtl.export.int8 import QuantisableFormat, quantise
from distill_mtl.networks.file_contract import NOTE
from distill_mtl.networks.runtimes.onnx_file import package
from distill_mtl.networks.weights import state_bytes

LARGEST = 2**31 - 2**24
"""Bytes of weights that fit into one file, whose format ends at 2 GiB; the rest is for the graph."""


@FORMATS.register("onnx")
class Onnx(QuantisableFormat):
    """The note is in the file's metadata, under `distill_mtl`. Weights of 2 GB and more lie in `FILE.data`."""

    name = "onnx"
    ending = ".onnx"
    words = "ONNX"
    runtimes = ("onnxruntime", "openvino")
    packages = ("onnx", "onnxscript", "onnxruntime")

    def write(self, module: Deployable, note: dict[str, Any], path: Path) -> None:
        if INPUT in module.kinds:
            raise ExportError(f"a task is called '{INPUT}', as the input of an ONNX file is. Use --to pt2.")
        program: Any = torch.onnx.export(
            recorded_program(module),
            (module.example(),),
            input_names=[INPUT],
            output_names=note["outputs"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        _name_axes(program.model, module)
        _free_names(program.model)
        program.model.metadata_props[NOTE] = json.dumps(note)
        program.save(path, external_data=state_bytes(module) > LARGEST)

    def write_int8(
        self, module: Deployable, note: dict[str, Any], path: Path, batches: Iterable[Tensor]
    ) -> None:
        if state_bytes(module) > LARGEST:
            raise ExportError("--int8: a student of more than 2 GB is not quantised. Leave out --int8.")
        quantise(path, batches, module.kinds)
        _stamp(path, note)


def _stamp(file: Path, note: dict[str, Any]) -> None:
    """Put the note into a file, in place of the one that is there."""
    onnx = package("onnx")
    model = onnx.load(file)
    onnx.helper.set_model_props(model, {NOTE: json.dumps(note)})
    onnx.save(model, file)


def _free_names(model: Any) -> None:
    """Rename inner tensors that the exporter calls as a task is called."""
    outputs = {value.name: value for value in model.graph.outputs}
    inner = [value for node in model.graph for value in node.outputs]
    for value in [*inner, *model.graph.initializers.values()]:
        if value.name in outputs and value is not outputs[value.name]:
            value.name = f"{value.name}.inner"


def _name_axes(model: Any, module: Deployable) -> None:
    """`batch`, `height` and `width` for the exporter's own words."""
    ir = package("onnx_ir")
    shape = model.graph.inputs[0].shape
    names = {str(shape[axis]): name for axis, name in module.open_axes().items()}
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    for value in values:
        for axis, side in enumerate(value.shape or ()):
            if str(side) in names:
                value.shape[axis] = ir.SymbolicDim(names[str(side)])
