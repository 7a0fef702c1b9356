"""The page of docs/ about exports: its snippets run as they stand, without our code."""

import io
import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import forked
import numpy as np
import pytest
import torch
from export_toys import ALONE, every_kind, run_folder, student, without_us
from PIL import Image

from distill_mtl import load_student

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
SNIPPETS = dict(re.findall(r"^```python\n# (\w+)\n(.*?)^```", PAGE, re.M | re.S))


SEEDED = "import numpy, torch; numpy.random.seed(0); torch.manual_seed(0)\n"
SAID = "\nprint([round(float(p), 6) for p in answers['left.probabilities'].flatten()])"


def exported(run: Path, to: str, *options: str) -> Path:
    """The file, written by a process of its own."""
    ended = forked.run("export", run, "--to", to, "--decode", "--rows", 6, *options)
    assert ended.status == 0, ended.text
    (file,) = (path for path in (run / "export").iterdir() if path.suffix in (".onnx", ".pt2", ".ts"))
    return file


@pytest.mark.parametrize("to", ["onnx", "pt2", "torchscript"])
def test_a_snippet_serves_with_the_students_numbers(tmp_path: Path, world: Path, to: str) -> None:
    kinds = {"left": every_kind()["breed"], "segment": every_kind()["part"]}
    run = run_folder(tmp_path / "multidigits", student(kinds=kinds), world)
    data = [str(world / "pool-test.tar")]
    file = exported(run, to, "--preprocess", "float", "--data", *data)
    printed = without_us(SEEDED + SNIPPETS[to] + SAID, file.parent)
    assert "48, 40" in printed
    assert len(SNIPPETS[to].strip().splitlines()) <= 7
    np.random.seed(0)
    torch.manual_seed(0)
    images = torch.from_numpy(np.random.rand(4, 3, 48, 40)) if to == "onnx" else torch.rand(4, 3, 48, 40)
    wanted = load_student(run / "student")(images.float())["left"]["probabilities"]
    given = torch.tensor(json.loads(printed.splitlines()[-1])).reshape(wanted.shape)
    assert torch.allclose(given, wanted, atol=1e-4)


def test_the_server_answers_pictures(tmp_path: Path, world: Path) -> None:
    kinds = {"left": every_kind()["breed"], "segment": every_kind()["part"]}
    run = run_folder(tmp_path / "multidigits", student(kinds=kinds), world)
    data = [str(world / "pool-test.tar")]
    file = exported(run, "onnx", "--preprocess", "uint8", "--data", *data)
    assert len([line for line in SNIPPETS["server"].splitlines() if line]) <= 22
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = ALONE + SNIPPETS["server"].replace("8000", str(port))
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    with subprocess.Popen(
        [sys.executable, "-I", "-c", script], cwd=file.parent, stderr=subprocess.DEVNULL
    ) as server:
        try:
            answer = json.loads(_posted(f"http://127.0.0.1:{port}", encoded.getvalue(), server))
        finally:
            server.kill()
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    label = int(load_student(run / "student")(images)["left"]["label"])
    assert answer == {"left": kinds["left"].classes[label]}


def _posted(address: str, sent: bytes, server: subprocess.Popen[bytes]) -> bytes:
    """The answer of a server that may still be starting."""
    while True:
        try:
            with urllib.request.urlopen(address, sent, timeout=60) as answer:
                return bytes(answer.read())
        except urllib.error.URLError as error:
            if server.poll() is not None or not isinstance(error.reason, ConnectionRefusedError):
                raise
        time.sleep(0.1)


def test_the_outputs_are_the_pages(tmp_path: Path) -> None:
    kinds = every_kind()
    made = student(kinds=kinds)
    from distill_mtl.students.student_folder import save_student

    save_student(made, tmp_path / "s")
    answers = load_student(tmp_path / "s")(torch.rand(2, 3, 9, 9))
    for row in re.findall(r"^\| (\w+)(?:, (\w+))? \| `TASK` .*? \| (.*) \|$", PAGE, re.M):
        task = next(
            task
            for task, kind in kinds.items()
            if kind.name == row[0] and (not row[1] or kind.describe().get("form") == row[1])
        )
        assert set(re.findall(r"`TASK\.(\w+)`", row[2])) == set(answers[task]) - {"logits"}, row
