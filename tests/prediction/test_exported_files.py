"""Exported files answer as the student they were made of, whatever they take."""

import json
from pathlib import Path

import onnx
import pytest
import torch
from prediction_world import KINDS, picture, student_folder

from distill_mtl.errors import UserError
from distill_mtl.export.deployable import Deployable, Pixels, file_note
from distill_mtl.export.export_format import FORMATS
from distill_mtl.networks.file_contract import NOTE
from distill_mtl.networks.opening import open_network
from distill_mtl.prediction.named_pictures import find_pictures
from distill_mtl.prediction.predictions import Prediction, answered_kinds, predictions
from distill_mtl.students.student_folder import load_student

SIZES = [(12, 20), (8, 8), (12, 20), (30, 9), (12, 20)]


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    return [
        str(picture(tmp_path / f"{number}.png", number, height=height, width=width))
        for number, (height, width) in enumerate(SIZES)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return student_folder(tmp_path_factory.mktemp("module") / "student")


def written(folder: Path, to: str, pixels: Pixels, *, decode: bool = False) -> Path:
    """The student as a file, written once, without the check that `distill-mtl export` makes."""
    path = folder.parent / f"{to}-{pixels}{FORMATS[to].ending}"
    if not path.exists():
        module = Deployable(load_student(folder).student, pixels, decode=decode).eval().requires_grad_(False)
        FORMATS[to]().write(module, file_note(module, None), path)  # type: ignore[attr-defined]
    return path


def noted(file: Path, to: Path, **note: object) -> Path:
    """A copy of an ONNX file with another note."""
    model = onnx.load(file)
    said = json.loads(model.metadata_props[0].value)
    onnx.helper.set_model_props(model, {NOTE: json.dumps(said | note)})
    onnx.save(model, to)
    return to


def answers(place: Path, pictures: list[str], only: list[str] | None = None) -> list[Prediction]:
    network = open_network(place, trust=True)
    found = list(
        predictions(network, answered_kinds(network, only), find_pictures(pictures).pictures, batch_size=4)
    )
    assert all(isinstance(each, Prediction) for each in found)
    return found


@pytest.mark.parametrize(
    ("to", "pixels", "decode"),
    [
        ("onnx", "normalised", False),
        ("onnx", "uint8", True),
        ("pt2", "normalised", True),
        ("pt2", "float", False),
        ("torchscript", "uint8", False),
    ],
)
def test_a_file_answers_as_its_student(
    folder: Path, pictures: list[str], to: str, pixels: Pixels, decode: bool
) -> None:
    expected = answers(folder, pictures)
    for mine, theirs in zip(
        answers(written(folder, to, pixels, decode=decode), pictures), expected, strict=True
    ):
        assert mine.key == theirs.key
        assert set(mine.decoded) == set(KINDS)
        for task, logits in theirs.logits.items():
            torch.testing.assert_close(mine.logits[task], logits, atol=1e-3, rtol=1e-3)
        assert mine.decoded["part"]["label"].shape == theirs.size
        assert mine.decoded["breed"]["label"] == theirs.decoded["breed"]["label"]


def test_a_file_shows_the_network_what_its_student_was_evaluated_on(
    folder: Path, tmp_path: Path, pictures: list[str]
) -> None:
    expected = answers(student_folder(tmp_path / "student", resize="crop"), pictures[:1])[0]
    file = noted(written(folder, "onnx", "normalised"), tmp_path / "crop.onnx", resize="crop")
    mine = answers(file, pictures[:1])[0]
    torch.testing.assert_close(mine.logits["breed"], expected.logits["breed"], atol=1e-3, rtol=1e-3)
    assert mine.decoded["part"]["label"][:, 0].eq(255).all()


def test_only_some_tasks_of_a_file_are_told(folder: Path, pictures: list[str]) -> None:
    path = written(folder, "onnx", "normalised")
    assert list(answers(path, pictures, ["pose"])[0].decoded) == ["pose"]
    with pytest.raises(UserError, match=r"onnx-normalised.onnx has no task 'bread'"):
        answers(path, pictures, ["bread"])


@pytest.mark.parametrize(
    "note", [{"tasks": {"absent": KINDS["breed"].describe()}}, {"inputs": {"size": "big"}}]
)
def test_a_note_that_does_not_fit_is_a_clear_mistake(
    folder: Path, tmp_path: Path, pictures: list[str], note: dict[str, object]
) -> None:
    path = noted(written(folder, "onnx", "normalised"), tmp_path / "other.onnx", **note)
    with pytest.raises(UserError, match="absent|input contract"):
        answers(path, pictures)
