"""`--to onnx`: a file for ONNX Runtime and whatever else reads ONNX; needs the extra [onnx]."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill_mtl.errors import ExportError, brief
from distill_mtl.export.deployable import INPUT, Deployable
from distill_mtl.export.format import FORMATS
from distill_mtl.export.graph import GraphFormat, Run, recorded_program
from distill_mtl.export.note import NOTE
from distill_mtl.teachers.runtimes.onnx_graph import package

LARGEST = 2**31 - 2**24
"""Bytes of weights that fit into one file, whose format ends at 2 GiB; the rest is for the graph."""


@FORMATS.register("onnx")
class Onnx(GraphFormat):
    """The note is in the file's metadata, under `distill_mtl`. Weights of 2 GB and more lie in `FILE.data`."""

    name = "onnx"
    ending = ".onnx"
    words = "ONNX"
    packages = ("onnx", "onnxscript", "onnxruntime")

    def write(self, module: Deployable, note: dict[str, Any], path: Path) -> None:
        example = module.example()
        program: Any = torch.onnx.export(
            recorded_program(module),
            (example,),
            input_names=[INPUT],
            output_names=note["outputs"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        _name_axes(program.model, module)
        program.model.metadata_props[NOTE] = json.dumps(note)
        program.save(path, external_data=_bytes(module) > LARGEST)

    def open(self, path: Path) -> Run:
        onnxruntime = package("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        # Its errors have no common type of their own.
        except Exception as error:
            raise ExportError(f"ONNX Runtime cannot run what was exported: {brief(error)}.") from error
        names = [output.name for output in session.get_outputs()]

        def run(images: Tensor) -> dict[str, Tensor]:
            answers = session.run(None, {INPUT: images.numpy()})
            return {name: torch.from_numpy(answer) for name, answer in zip(names, answers, strict=True)}

        return run


def _bytes(module: Deployable) -> int:
    return sum(value.nbytes for value in module.state_dict().values())


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
