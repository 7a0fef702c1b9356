"""`--to pt2`: a program that `torch.export.load` opens wherever PyTorch is, without the code of this package."""

import io
import json
from pathlib import Path
from typing import Any

import torch

from distill_mtl.export.deployable import Deployable
from distill_mtl.export.export_format import FORMATS
from distill_mtl.export.graph_format import GraphFormat, recorded_program
from distill_mtl.networks.file_contract import NOTE


@FORMATS.register("pt2")
class Pt2(GraphFormat):
    """torch.export; the note is the archive's extra file `distill_mtl`."""

    name = "pt2"
    ending = ".pt2"
    words = "a torch.export program"

    def write(self, module: Deployable, note: dict[str, Any], path: Path) -> None:
        content = io.BytesIO()  # torch's own writer of files ends the process where the disk is full
        torch.export.save(recorded_program(module), content, extra_files={NOTE: json.dumps(note)})
        path.write_bytes(content.getbuffer())
