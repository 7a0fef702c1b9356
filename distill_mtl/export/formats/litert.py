"""`--to litert`: a .tflite file for phones and small devices; needs the extra [litert-export].

LiteRT Torch converts what torch.export records. It takes one number of rows and one size of pictures.
"""

import json
from pathlib import Path
from typing import Any

from distill_mtl.export.deployable import INPUT, Deployable
from distill_mtl.export.export_format import FORMATS
from distill_mtl.export.graph_format import GraphFormat
from distill_mtl.extras import extra
from distill_mtl.networks.file_contract import NOTE
from distill_mtl.networks.runtimes.litert_file import write_note


@FORMATS.register("litert")
class LiteRt(GraphFormat):
    """The note is in the file's metadata, under `distill_mtl`. Whole numbers are int32."""

    name = "litert"
    ending = ".tflite"
    words = "a LiteRT file"
    runtimes = ("litert",)
    fixed = True
    packages = ("litert_torch", "ai_edge_litert")
    extra = "litert-export"

    def write(self, module: Deployable, note: dict[str, Any], path: Path) -> None:
        converter = extra("litert_torch", self.extra, self.words)
        converter.convert(module, (module.example(),), strict_export=False).export(str(path))
        write_note(path, {NOTE: json.dumps(note)}, image=INPUT, outputs=note["outputs"])
