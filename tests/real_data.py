"""Where tests find the real data (MNIST, CamVid) that is no part of the project."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def real_data(name: str) -> Path:
    """The folder of a data set; the test is skipped where it is absent."""
    folder = Path(os.environ.get("DISTILL_MTL_DATA") or ROOT.parent / "shared" / "data") / name
    if not folder.is_dir():
        pytest.skip(f"no {name} in {folder.parent}: $DISTILL_MTL_DATA names the folder that holds it")
    return folder
