"""The runtimes in which an exported file is checked, by the name that `--on` takes.

Each opens files as the runtime of a teacher does (`networks/runtimes/`), so that an export is checked by what would
run it as a teacher.
"""

import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from distill_mtl.errors import ExportError, nearest
from distill_mtl.networks.runtime import RUNTIMES, Runtime


@dataclass(frozen=True)
class FileRuntime:
    """One of them.

    Attributes:
        words: for people.
        package: on PyPI, whose version is the runtime's.
        extra: of ours, that installs it; empty: it is always there.
        reads: the ending under which a file is opened; empty: its own.
        system: on which alone it runs, as Python's `sys.platform` calls it; empty: on each.
    """

    words: str
    package: str
    extra: str = ""
    reads: str = ""
    system: str = ""

    @property
    def version(self) -> str | None:
        """The installed one; None where it is not installed."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            return None

    @property
    def runs_here(self) -> bool:
        """Whether there is such a runtime for this system."""
        return self.system in ("", sys.platform)

    def open(self, file: Path) -> Runtime:
        """The file in this runtime, on the CPU, computing in float32.

        Raises:
            UserError: the package is missing, or the runtime cannot read the file.
        """
        return RUNTIMES[self.reads or file.suffix](file)


FILE_RUNTIMES = {
    "onnxruntime": FileRuntime("ONNX Runtime", "onnxruntime", "onnx"),
    "openvino": FileRuntime("OpenVINO", "openvino", "openvino", reads=".xml"),
    "torch": FileRuntime("PyTorch", "torch"),
    "litert": FileRuntime("LiteRT", "ai-edge-litert", "litert"),
    "executorch": FileRuntime("ExecuTorch", "executorch", "executorch"),
    "coreml": FileRuntime("Core ML", "coremltools", "coreml", system="darwin"),
}


def chosen_runtimes(asked: Sequence[str] | None, able: Sequence[str], file: str) -> dict[str, FileRuntime]:
    """The runtimes for `--on`, in the order in which they are asked for; None: the file's own one, if it runs here.

    Args:
        asked: names.
        able: those that read such files, the file's own one first.
        file: what they read, for the message: `--to onnx`.

    Raises:
        ExportError: none of that name reads such files, runs on this system, or is installed.
    """
    if asked is None:
        own = FILE_RUNTIMES[able[0]]
        return {able[0]: own} if own.runs_here else {}
    for name in asked:
        if name not in able:
            raise ExportError(
                f"--on {name}: no such runtime reads {file}.{nearest(name, able)} Known: {', '.join(able)}."
            )
        found = FILE_RUNTIMES[name]
        if not found.runs_here:
            raise ExportError(f"--on {name}: {found.words} does not run on {platform.system()}.")
        if found.version is None:
            raise ExportError(f"--on {name} needs {found.package}: pip install 'distill_mtl[{found.extra}]'.")
    return {name: FILE_RUNTIMES[name] for name in dict.fromkeys(asked)}
