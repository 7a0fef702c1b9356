"""`--to hub`: the folder, its card, and the real client talking to a small server of our own."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from export_toys import toy_run
from huggingface_hub import ModelCard, constants
from result_toys import evaluation_of, task_result
from rich.console import Console

from distill_mtl import load_student
from distill_mtl.errors import ExportError, StudentError
from distill_mtl.jobs.export import export_student
from distill_mtl.report.model_card import model_card

QUIET = Console(quiet=True)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """As much of the hub as a push needs.

    Attributes:
        files: path -> content, of the repository.
        made: what was asked for when it was made.
        refuse: status of every answer; 0: none is refused.
        tokens: that were shown.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files: dict[str, bytes] = {}
        self.made: dict[str, Any] = {}
        self.refuse = 0
        self.tokens: set[str | None] = set()
        self.message = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        if "/revision/" in self.path:  # asked by older clients before they upload
            self._say({"id": "owner/toy", "xetEnabled": False})
        else:
            self._say({"error": "Repository not found"}, 404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.server.tokens.add(self.headers["Authorization"])
        if self.server.refuse:
            self._say({"error": "Invalid credentials in Authorization header"}, self.server.refuse)
        elif self.path == "/api/repos/create":
            self.server.made = json.loads(body)
            name = f"{self.server.made['organization']}/{self.server.made['name']}"
            self._say({"url": f"{self.server.url}/{name}", "id": name, "name": name})
        elif self.path == "/api/validate-yaml":
            self._say({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self._say({"files": files})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                else:
                    self.server.message = line["value"]["summary"]
            self._say(
                {
                    "success": True,
                    "commitOid": COMMIT,
                    "commitUrl": f"{self.server.url}/owner/toy/commit/{COMMIT}",
                }
            )
        else:
            self._say({"error": f"unknown {self.path}"}, 404)

    def _say(self, answer: dict[str, Any], status: int = 200) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_TOKEN", "hf_toy")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def run(tmp_path: Path, world: Path) -> Path:
    """With the card that a run writes."""
    folder = toy_run(tmp_path / "toy", world)
    kinds = load_student(folder / "student").student.kinds
    card = model_card(name="toy", architecture="net", size=(8, 8), kinds=kinds, teachers={"hue": "hue 0123"})
    (folder / "student" / "README.md").write_text(card + "\nMeasured with care.\n")
    return folder


def test_the_folder_is_the_student_with_a_card_that_the_hub_reads(run: Path) -> None:
    folder = export_student(run, "hub", license="apache-2.0", console=QUIET)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "distill_mtl"
    assert card.data.license == "apache-2.0"
    assert {"multi-task", "distillation", "image-segmentation"} <= set(card.data.tags)
    assert "Measured with care." in card.text
    images = torch.rand(2, 3, 12, 9)
    ours, theirs = load_student(run / "student")(images), load_student(folder)(images)
    assert torch.equal(ours["hue"]["logits"], theirs["hue"]["logits"])


def test_a_licence_that_nobody_named_is_called_unknown(run: Path) -> None:
    assert ModelCard.load(export_student(run, "hub", console=QUIET) / "README.md").data.license == "unknown"


def test_some_tasks_alone_get_a_card_of_their_own(run: Path) -> None:
    scores = task_result(1.5, teacher=90.0, rows=40)
    evaluation_of({"hue": scores, "shape": scores}).write(run / "results.json")
    teachers = {"hue": {"file": "/home/me/teachers/hues/model.safetensors", "sha256": "ab" * 32}}
    (run / "teachers.json").write_text(json.dumps(teachers))
    folder = export_student(run, "hub", only=["hue"], console=QUIET)
    text = (folder / "README.md").read_text()
    assert "| hue | accuracy | 40 | 90.00 | 91.50 | +1.50 |" in text
    assert "`hues abababababab`" in text
    assert "/home/me" not in text
    assert "shape" not in text
    assert "Measured with care" not in text
    assert list(load_student(folder).classes) == ["hue"]


def test_what_is_pushed_is_the_folder(run: Path, hub: Hub) -> None:
    folder = export_student(run, "hub", repo="owner/toy", private=True, license="mit", console=QUIET)
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert (hub.made["organization"], hub.made["name"]) == ("owner", "toy")
    assert hub.made.get("private") is True or hub.made.get("visibility") == "private"
    assert hub.message == "A student for hue, shape"
    assert "Bearer hf_toy" in hub.tokens
    assert 'load_student("hf_hub:owner/toy")' in hub.files["README.md"].decode()


def test_a_public_repository_is_made_unless_said_otherwise(run: Path, hub: Hub) -> None:
    export_student(run, "hub", repo="owner/toy", console=QUIET)
    assert not hub.made.get("private")
    assert hub.made.get("visibility") in (None, "public")


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_refusal_is_one_line_and_the_folder_stays(run: Path, hub: Hub, status: int) -> None:
    hub.refuse = status
    with pytest.raises(ExportError, match=r"owner/toy cannot be pushed: .*hf auth login.*HF_TOKEN") as caught:
        export_student(run, "hub", repo="owner/toy", console=QUIET)
    assert "\n" not in str(caught.value)
    assert (run / "export" / "toy-hub" / "model.safetensors").is_file()


def test_no_way_to_the_hub_is_one_line(run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ExportError, match="cannot be pushed") as caught:
        export_student(run, "hub", repo="owner/toy", console=QUIET)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_none_is_one_line(run: Path, hub: Hub) -> None:
    with pytest.raises(ExportError, match="cannot be pushed"):
        export_student(run, "hub", repo="not a/repo/name", console=QUIET)


def test_private_without_a_repository_is_refused(run: Path) -> None:
    with pytest.raises(ExportError, match="--repo OWNER/NAME"):
        export_student(run, "hub", private=True, console=QUIET)


def test_options_of_other_formats_are_refused(run: Path) -> None:
    with pytest.raises(ExportError, match="--decode .* --to hub"):
        export_student(run, "hub", decode=True, console=QUIET)
    with pytest.raises(ExportError, match="--repo .* --to onnx; it is for hub"):
        export_student(run, "onnx", repo="a/b", console=QUIET)


def test_a_pushed_student_is_loaded_by_its_name(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the client's cache, as it is after the first fetch."""
    home = tmp_path / "hub" / "models--owner--toy"
    export_student(run, "hub", out=home / "snapshots" / COMMIT, console=QUIET)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    images = torch.rand(2, 3, 8, 8)
    loaded = load_student("hf_hub:owner/toy")(images)
    assert torch.equal(loaded["hue"]["logits"], load_student(run / "student")(images)["hue"]["logits"])
    with pytest.raises(StudentError, match="hf_hub:owner/absent cannot be fetched"):
        load_student("hf_hub:owner/absent")
