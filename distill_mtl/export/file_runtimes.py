"""The runtimes in which an exported file is checked, by the name that `--on` takes.

Each opens files as the runtime of a teacher does (`networks/runtimes/`), so that an export is checked by what would
run it as a teacher.
"""

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
    """

    words: str
    package: str
    extra: str = ""
    reads: str = ""

    @property
    def version(self) -> str | None:
        """The installed one; None where it is not installed."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            return None

    def open(self, file: Path, ending: str) -> Runtime:
        """The file in this runtime, on the CPU, computing in float32.

        Args:
            file: an exported one, whatever its name.
            ending: that its format gives, where the name has none that is known.

        Raises:
            UserError: the package is missing, or the runtime cannot read the file.
        """
        known = file.suffix in RUNTIMES.names()
        return RUNTIMES[self.reads or (file.suffix if known else ending)](file)


FILE_RUNTIMES = {
    "onnxruntime": FileRuntime("ONNX Runtime", "onnxruntime", "onnx"),
    "openvino": FileRuntime("OpenVINO", "openvino", "openvino", reads=".xml"),
    "torch": FileRuntime("PyTorch", "torch"),
    "litert": FileRuntime("LiteRT", "ai-edge-litert", "litert"),
    "executorch": FileRuntime("ExecuTorch", "executorch", "executorch"),
}


def chosen_runtimes(asked: Sequence[str] | None, able: Sequence[str], file: str) -> dict[str, FileRuntime]:
    """The runtimes for `--on`, in the order in which they are asked for; None: the file's own one, if it has one here.

    Args:
        asked: names.
        able: those that read such files, the file's own one first.
        file: what they read, for the message: `--to onnx`.

    Raises:
        ExportError: none of that name reads such files, or it is not installed.
    """
    if asked is None:
        return {name: FILE_RUNTIMES[name] for name in able[:1]}
    for name in asked or [""]:
        if name not in able:
            raise ExportError(
                f"--on {name}: {file} is not checked in it.{nearest(name, able)} Known: {', '.join(able) or 'none'}."
            )
        found = FILE_RUNTIMES[name]
        if found.version is None:
            raise ExportError(f"--on {name} needs {found.package}: pip install 'distill_mtl[{found.extra}]'.")
    return {name: FILE_RUNTIMES[name] for name in dict.fromkeys(asked)}
