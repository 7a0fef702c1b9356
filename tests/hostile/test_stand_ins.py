"""What lies in the place of a file that was never fetched: pointers of Git LFS, web pages. The message says so."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import children
import pytest
from toys import ToyNet

from distill_mtl.data.decode import read_image
from distill_mtl.data.walk import walk_shard
from distill_mtl.errors import UserError
from distill_mtl.networks.opening import open_network
from distill_mtl.networks.runtime import torch_archive
from distill_mtl.networks.runtimes.own_module import load_checkpoint
from distill_mtl.networks.weights import read_weights
from distill_mtl.shards.tables import table_rows

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12345\n"
STAND_INS = {
    "git lfs pull": LFS,
    "web page": b"\n<!DOCTYPE html>\n<html><head><title>Not found</title></head></html>\n",
}


def _archive(path: Path) -> None:
    with torch_archive(path):
        pass


READERS: dict[str, Callable[[Path], object]] = {
    "model.safetensors": read_weights,
    "net.onnx": open_network,
    "net.tflite": open_network,
    "net.xml": open_network,
    "net.pt2": _archive,
    "net.pth": lambda path: load_checkpoint(ToyNet(), path),
    "a.tar": walk_shard,
    "a.png": lambda path: read_image(path.read_bytes()),
    "a.csv": lambda path: table_rows(path, {"cls": ["label"]}),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("said", STAND_INS)
def test_what_was_never_fetched_is_named(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).write_bytes(STAND_INS[said])
    with pytest.raises((UserError, ValueError), match=said) as caught:
        READERS[name](tmp_path / name)
    assert "\n" not in str(caught.value)


def test_openvino_is_asked_to_report_nothing(tmp_path: Path) -> None:
    """Its own import reports itself to Google Analytics, from a process of its own."""
    pytest.importorskip("openvino")
    file = tmp_path / "empty.xml"
    file.touch()
    code = f"""
import sys
from pathlib import Path
from distill_mtl.errors import UserError
from distill_mtl.networks.opening import open_network
try:
    open_network(Path({str(file)!r}))
except UserError:
    pass
print("openvino" in sys.modules, [name for name in sys.modules if name.startswith("openvino_telemetry.")])
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], env=children.environment(), capture_output=True, text=True, check=True
    )
    assert ran.stdout == "True []\n"
