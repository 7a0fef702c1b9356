"""`--to coreml`: an ML program for Apple's devices (`.mlpackage`, a folder); needs the extra [coreml].

Core ML runs on macOS and iOS only, so what is written is not run here: it is not checked, and its certificate says so.
"""

import json
import logging
from pathlib import Path
from typing import Any

from distill_mtl.errors import ExportError
from distill_mtl.export.deployable import Deployable
from distill_mtl.export.export_format import FORMATS
from distill_mtl.export.graph_format import GraphFormat, recorded_program
from distill_mtl.extras import extra
from distill_mtl.networks.file_contract import NOTE


@FORMATS.register("coreml")
class CoreMl(GraphFormat):
    """The note is in the model's own metadata, under `distill_mtl`. Core ML's names have no dots: `left_label`."""

    name = "coreml"
    ending = ".mlpackage"
    words = "a Core ML program"
    runtimes = ()
    fixed = True
    packages = ("coremltools",)

    def write(self, module: Deployable, note: dict[str, Any], path: Path) -> None:
        if module.pixels == "uint8":
            raise ExportError(
                "--to coreml: Core ML takes no tensor of bytes. Use --preprocess, for floats in [0, 1]."
            )
        before = logging.root.manager.disable
        logging.disable(logging.ERROR)  # on import it names what works on macOS alone
        try:
            tools = extra("coremltools", self.name, self.words)
            model = tools.convert(
                recorded_program(module).run_decompositions({}),
                outputs=[tools.TensorType(name=name.replace(".", "_")) for name in note["outputs"]],
                compute_precision=tools.precision.FLOAT32,  # by itself it takes float16
                minimum_deployment_target=tools.target.iOS17,
                skip_model_load=True,
            )
            model.user_defined_metadata[NOTE] = json.dumps(note)
            model.save(str(path))
        finally:
            logging.disable(before)
