"""metrics.jsonl: one line per logged step, always written, whatever else shows the run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO


class MetricsLog:
    """Appends lines that are complete on disk as soon as they are written.

    Args:
        path: the file; an existing one is continued.
    """

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("a", buffering=1)

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line."""
        self._file.write(json.dumps(_rounded(line)) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _rounded(entry) for key, entry in value.items()}
    return value
