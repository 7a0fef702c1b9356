"""`--to openvino`: an IR, a graph (`.xml`) with its weights beside it (`.bin`); needs the extras [openvino] and [onnx].

OpenVINO reads the ONNX file that `--to onnx` writes, and writes it in its own form. The student's weights stay in
float32: OpenVINO's default would halve them. In 8 bits it reads what ONNX Runtime has quantised, too: NNCF, its own
quantiser, changes more decisions at the same speed (docs/export.md).
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from distill_mtl.export.deployable import Deployable
from distill_mtl.export.export_format import FORMATS
from distill_mtl.export.formats.onnx import Onnx
from distill_mtl.export.int8 import QuantisableFormat
from distill_mtl.networks.file_contract import NOTE
from distill_mtl.networks.runtimes.openvino_file import core, package


@FORMATS.register("openvino")
class OpenVino(QuantisableFormat):
    """The note is in the graph's runtime information, under `distill_mtl`."""

    name = "openvino"
    ending = ".xml"
    words = "an OpenVINO IR"
    runtimes = ("openvino",)
    packages = ("openvino", *Onnx.packages)
    extra = "onnx,openvino"

    def write(self, module: Deployable, note: dict[str, Any], path: Path) -> None:
        between = path.with_suffix(Onnx.ending)
        Onnx().write(module, note, between)
        self._convert(between, note, path)

    def write_int8(
        self, module: Deployable, note: dict[str, Any], path: Path, batches: Iterable[Tensor]
    ) -> None:
        between = path.with_suffix(Onnx.ending)
        Onnx().write(module, note, between)
        Onnx().write_int8(module, note, between, batches)
        self._convert(between, note, path)

    def _convert(self, between: Path, note: dict[str, Any], path: Path) -> None:
        """Write an ONNX file as an IR, and remove it."""
        openvino, model = package(), core().read_model(between)
        model.set_rt_info(json.dumps(note), [NOTE])
        openvino.save_model(model, path, compress_to_fp16=False)
        for file in path.parent.glob(f"{between.name}*"):
            file.unlink()
