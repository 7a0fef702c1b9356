"""environment.json: versions, processes, time and rule of a run's last sitting, which its report names."""

import json
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from distill_mtl.files import write_text

_PACKAGES = ("distill_mtl", "torch", "torchvision", "timm", "accelerate", "webdataset", "numpy")


def write_environment(path: Path, *, processes: int, balance: str) -> None:
    """Write it anew; a run that goes on elsewhere is of the later place.

    Args:
        path: of the file.
        processes: that train together.
        balance: which balancing rule was taken, and why.
    """
    entry: dict[str, Any] = {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "processes": processes,
        "balance": balance,
        "versions": {"python": platform.python_version(), **_versions(_PACKAGES)},
    }
    write_text(path, json.dumps(entry, indent=2) + "\n")


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "from a checkout that is not installed"
    return found
