"""Detectors as teachers before training: what `teacher inspect` shows of each form, and wrong readings that the check
names."""

import re
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import detector_toys
import pytest
from rich.console import Console
from safetensors.torch import save_file

from distill_mtl.errors import TeacherError, UserError
from distill_mtl.jobs.one_teacher import check_teacher, inspect_teacher

INPUT = ["input.size=32"]
NAMED = ["classes=[warm, cold]"]
FORMS = ("yolo", "yolov5", "yolo_nms", "detr", "detr_sigmoid", "scores", "torchvision", "ssd")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard of labelled pictures, and the weights of the detector."""
    folder = tmp_path_factory.mktemp("detectors")
    detector_toys.write(folder / "test.tar", 48, 1)
    save_file(detector_toys.make().state_dict(), folder / "finder.safetensors")
    sys.path.insert(0, str(Path(detector_toys.__file__).parent))
    return folder


def named(world: Path, form: str, **args: str) -> dict[str, Any]:
    """How the command line names the detector in this form."""
    unit = {"unit": "shares"} if form in detector_toys.SHARES else {}
    return {
        "module": "detector_toys:make",
        "args": {"form": form, **unit, **args},
        "weights": str(world / "finder.safetensors"),
        "trust": True,
    }


def check(world: Path, form: str, *overrides: str, args: dict[str, str] | None = None) -> str:
    """What `teacher check` prints. Raises TeacherError where it refuses."""
    console = Console(file=StringIO(), width=200)
    said = [*INPUT, *NAMED, *overrides]
    data = [str(world / "test.tar")]
    check_teacher(**named(world, form, **(args or {})), data=data, overrides=said, console=console)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("form", FORMS)
def test_inspect_shows_form_classes_size_and_the_lines_for_a_recipe(world: Path, form: str) -> None:
    console = Console(file=StringIO(), width=200)
    inspect_teacher(**named(world, form), overrides=[*INPUT, *NAMED], console=console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    name = form.removesuffix("_sigmoid")
    assert re.search(rf"form +{name}: ", text)
    assert re.search(r"gives +boxes +found on a trial", text)
    assert re.search(r"classes +2 \(warm, cold\) +command line", text)
    assert re.search(r"size +32 x 32", text)
    assert re.search(r"mean +(0  0  0|0\.485|0\.5)", text)
    assert f"form: {name}  # as found" in text
    assert "kind: heatmap" in text


@pytest.mark.parametrize("form", FORMS)
def test_every_form_passes_the_check_as_it_is_found(world: Path, form: str) -> None:
    """With the pixels that it was made for: some forms are assumed to want others."""
    pixels = ["input.mean=[0, 0, 0]", "input.std=[1, 1, 1]"]
    assert re.search(r"map50 +48 +100\.00", check(world, form, *pixels))


@pytest.mark.parametrize(
    ("form", "wrong", "words", "remedy"),
    [
        ("yolo", "unit=shares", "in pixels of its input, not in shares", "unit: pixels"),
        ("ssd", "unit=pixels", "in shares of the sides, not in pixels", "unit: shares"),
        ("ssd", "corners=xyxy", "x and y are swapped", "corners: yxyx"),
        ("yolo_nms", "corners=yxyx", "left, top, right, bottom", "corners: xyxy"),
        ("yolo", "corners=xyxy", "centre's x and y, width, height", "corners: cxcywh"),
        ("torchvision", "background=none", "first class is a background", "background: first"),
        ("ssd", "background=first", "none of its classes is a background", "background: none"),
    ],
)
def test_a_wrong_reading_is_named_with_its_mend(
    world: Path, form: str, wrong: str, words: str, remedy: str
) -> None:
    pixels = ["input.mean=[0, 0, 0]", "input.std=[1, 1, 1]"]
    with pytest.raises(TeacherError, match=words) as caught:
        check(world, form, *pixels, f"output.{wrong}")
    assert f"`output: {{{remedy}}}`" in str(caught.value)
    assert "it then scores 100.00" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "100.00" in check(world, form, *pixels, f"output.{remedy.replace(': ', '=')}")


def test_wrong_pixels_of_a_detector_are_named_as_those_of_others(world: Path) -> None:
    with pytest.raises(TeacherError, match=r"images in \[0, 1\], not normalised"):
        check(world, "yolo", "input.mean=[0, 0, 0]", "input.std=[1, 1, 1]", "input.white=255")


def test_a_list_whose_number_of_classes_nobody_says_is_refused(world: Path) -> None:
    with pytest.raises(UserError, match=r"form torchvision.*nothing says how many.*`classes: \[\.\.\.\]`"):
        inspect_teacher(**named(world, "torchvision"), overrides=INPUT)


def test_a_detector_is_no_classifier(world: Path) -> None:
    with pytest.raises(TeacherError, match=r"answers with boxes.*kind classification.*`kind: heatmap`"):
        check_teacher(
            **named(world, "yolo"),
            data=[str(world / "test.tar")],
            kind="classification",
            overrides=INPUT,
        )
