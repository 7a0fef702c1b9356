"""metrics.jsonl: one line per logged step, always written, whatever else shows the run."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO


class MetricsLog:
    """Appends lines that are complete on disk as soon as they are written. A context manager.

    Args:
        path: the file; an existing one is continued.
        enabled: False writes nothing (every process but the first).
    """

    def __init__(self, path: Path, *, enabled: bool = True) -> None:
        self._file: TextIO | None = path.open("a", buffering=1) if enabled else None

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line."""
        if self._file is not None:
            self._file.write(json.dumps(_rounded(line), allow_nan=False) + "\n")

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _rounded(entry) for key, entry in value.items()}
    return value
