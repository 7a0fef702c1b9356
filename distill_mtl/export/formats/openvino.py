"""`--to openvino`: an IR, a graph (`.xml`) with its weights beside it (`.bin`); needs the extras [openvino] and [onnx].

OpenVINO reads the ONNX file that `--to onnx` writes, and writes it in its own form. The student's weights stay in
float32: OpenVINO's default would halve them.
"""

import json
from pathlib import Path
from typing import Any

from distill_mtl.export.deployable import Deployable
from distill_mtl.export.export_format import FORMATS
from distill_mtl.export.formats.onnx import Onnx
from distill_mtl.export.graph_format import GraphFormat
from distill_mtl.networks.file_contract import NOTE
from distill_mtl.networks.runtimes.openvino_file import package


@FORMATS.register("openvino")
class OpenVino(GraphFormat):
    """The note is in the graph's runtime information, under `distill_mtl`."""

    name = "openvino"
    ending = ".xml"
    words = "an OpenVINO IR"
    runtimes = ("openvino",)
    packages = ("openvino", *Onnx.packages[:2])

    def write(self, module: Deployable, note: dict[str, Any], path: Path) -> None:
        openvino, between = package(), path.with_suffix(Onnx.ending)
        Onnx().write(module, note, between)
        model = openvino.Core().read_model(between)
        model.set_rt_info(json.dumps(note), [NOTE])
        openvino.save_model(model, path, compress_to_fp16=False)
        for file in path.parent.glob(f"{between.name}*"):
            file.unlink()
