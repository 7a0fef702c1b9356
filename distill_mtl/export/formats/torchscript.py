"""`--to torchscript`: a trace for stacks that still read TorchScript, which PyTorch calls deprecated; else take pt2."""

import io
import json
from pathlib import Path
from typing import Any

import torch

from distill_mtl.export.deployable import Deployable
from distill_mtl.export.export_format import FORMATS
from distill_mtl.export.graph_format import GraphFormat
from distill_mtl.networks.file_contract import NOTE


@FORMATS.register("torchscript")
class TorchScript(GraphFormat):
    """torch.jit.trace; the note is the archive's extra file `distill_mtl`."""

    name = "torchscript"
    ending = ".ts"
    words = "TorchScript"

    def write(self, module: Deployable, note: dict[str, Any], path: Path) -> None:
        # strict: a dict is an answer that a trace may give. The check after it is ours, in a fresh copy.
        program = torch.jit.trace(module, module.example(), strict=False, check_trace=False)
        content = io.BytesIO()  # torch's own writer of files ends the process where the disk is full
        torch.jit.save(program, content, _extra_files={NOTE: json.dumps(note)})
        path.write_bytes(content.getbuffer())
