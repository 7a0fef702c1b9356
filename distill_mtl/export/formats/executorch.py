"""`--to executorch`: a .pte file for ExecuTorch and XNNPACK's kernels; needs the extra [executorch].

ExecuTorch plans its memory when the file is written, so the file takes one number of rows and one size of pictures.
"""

import json
from pathlib import Path
from typing import Any

import torch

from distill_mtl.export.deployable import Deployable
from distill_mtl.export.export_format import FORMATS
from distill_mtl.export.graph_format import GraphFormat, recorded_program
from distill_mtl.extras import extra
from distill_mtl.networks.file_contract import NOTE


@FORMATS.register("executorch")
class ExecuTorch(GraphFormat):
    """The note is what the file's method `distill_mtl` returns, as bytes."""

    name = "executorch"
    ending = ".pte"
    words = "an ExecuTorch program"
    runtimes = ("executorch",)
    fixed = True
    packages = ("executorch",)

    def write(self, module: Deployable, note: dict[str, Any], path: Path) -> None:
        exir = extra("executorch.exir", self.name, self.words)
        xnnpack = extra("executorch.backends.xnnpack.partition.xnnpack_partitioner", self.name, self.words)
        # Its own kernels, group normalisation among them, and XNNPACK's passes want channels first in memory.
        program = recorded_program(module.to(memory_format=torch.contiguous_format))
        for node in program.graph.nodes:
            if "memory_format" in node.kwargs:
                node.kwargs = {**node.kwargs, "memory_format": torch.contiguous_format}
        text = torch.frombuffer(bytearray(json.dumps(note).encode()), dtype=torch.uint8)
        edge = exir.to_edge_transform_and_lower(
            program.run_decompositions({}),  # strides are computed anew
            partitioner=[xnnpack.XnnpackPartitioner()],
            constant_methods={NOTE: text},
        )
        path.write_bytes(edge.to_executorch().buffer)
