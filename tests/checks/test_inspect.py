"""`distill-mtl teacher inspect`: what a newcomer reads, and the lines that are pasted into a recipe."""

import re
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml

from distill_mtl.cli import main
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.teachers.load_teacher import load_teacher


def inspect(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as done:
        main(["teacher", "inspect", *arguments])
    printed = capsys.readouterr()
    assert done.value.code == 0, printed.err
    return printed.out


def row(text: str, key: str) -> list[str]:
    """The cells of a line of a table."""
    line = next(line for line in text.splitlines() if line.split()[:1] == [key])
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def pasted(text: str) -> dict[str, dict[str, object]]:
    tasks: dict[str, dict[str, object]] = yaml.safe_load(text.partition("for a recipe\n")[2])["tasks"]
    return tasks


def test_a_folder_says_what_it_is_and_what_it_was_trained_on(
    toy_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = inspect(capsys, f"{toy_data}/teachers/shape")
    assert "'shape' of a student folder" in text
    assert row(text, "size") == ["size", "8 x 8", "the file"]
    assert row(text, "kind") == ["kind", "segmentation", "the file"]
    assert row(text, "classes") == ["classes", "2 (class0, class1)", "the file"]
    assert row(text, "answer") == ["answer", "logits [B, 2, 4, 4]", "the only output"]
    assert row(text, "second")[-1] == "the default"
    assert "sha256 " in text
    assert pasted(text) == {"shape": {"kind": "segmentation", "teacher": f"{toy_data}/teachers/shape"}}


def test_of_a_file_it_tells_what_is_said_and_what_is_assumed(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = inspect(capsys, str(exported), "--trust", "--set", "output.name=1", "--set", "input.std=[1, 1, 1]")
    assert row(text, "size")[-1] == "the file"
    assert row(text, "mean") == ["mean", "0.485", "0.456", "0.406", "assumed"]
    assert row(text, "std")[-1] == "command line"
    assert row(text, "crop")[-1] == "default"
    assert row(text, "answer")[-1] == "command line"
    assert row(text, "gives") == ["gives", "logits", "found on a trial"]
    assert "[B, 6, 8, 8]" in text, "the other output"


def test_the_lines_for_a_recipe_load_the_same_teacher(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = inspect(capsys, str(exported), "--trust", "--set", "output.name=1")
    section = TeacherSection.model_validate(pasted(text)["hue"]["teacher"])
    assert section.sha256 is not None
    assert section.input.mean is not None, "what was assumed is said"
    card = load_teacher(section, task="hue").card
    assert card.assumed == ()
    assert len(card.classes) == 3


def test_long_lists_of_layers_are_cut_unless_all_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(Path(__file__).parents[2] / "teachers" / "left")
    short, long = inspect(capsys, folder), inspect(capsys, folder, "--all")
    assert "of 71 layers" in short
    assert row(short, "layer4")[-1] == "the default"
    assert "layer1.0.conv1" not in short
    assert row(long, "layer1.0.conv1")[1] == "map"


def test_code_and_its_weights_can_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "somebody.py").write_text(
        "from torch import nn\n\n\ndef net(classes):\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.save(import_module("somebody").net(5).state_dict(), tmp_path / "breed.pth")
    text = inspect(
        capsys,
        *("--module", "somebody:net", "--args", "{classes: 5}", "--weights", "breed.pth"),
        *("--trust", "--set", "input.size=16"),
    )
    assert "your own code" in text
    entry = pasted(text)["breed"]["teacher"]
    assert isinstance(entry, dict)
    assert entry["args"] == {"classes": 5}
    assert entry["input"]["size"] == 16


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["EXPORTED"], r"torch\.export.*--trust"),
        (["EXPORTED", "--trust", "--set", "output.name=3"], r"\boutput 3\b"),
        (["nowhere"], "nowhere .*no such folder"),
        (["nowhere.onnx"], r"nowhere\.onnx .*not exist"),
        (["x", "--timm", "resnet18"], "`path`.*`timm`"),
        ([], "no network.*`path`.*`timm`.*`module`"),
    ],
)
def test_what_cannot_be_looked_into_is_a_message_and_status_2(
    exported: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as done:
        main(["teacher", "inspect", *(str(exported) if word == "EXPORTED" else word for word in arguments)])
    printed = capsys.readouterr()
    assert done.value.code == 2
    assert re.search(said, printed.err), printed.err
