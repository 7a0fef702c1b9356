from pathlib import Path

import pytest
import torch
from PIL import Image
from prediction_world import KINDS, picture, student_folder
from torch import Tensor

from distill_mtl import load_student
from distill_mtl.data.decode import read_image
from distill_mtl.networks.network import Network
from distill_mtl.networks.opening import open_network
from distill_mtl.prediction.named_pictures import find_pictures
from distill_mtl.prediction.predictions import Prediction, Unread, answered_kinds, predictions
from distill_mtl.tasks.base import TaskKind

SIZES = [(12, 20), (8, 8), (30, 9), (12, 20), (5, 40)]


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """Of several sizes, so that no two of a batch need fit."""
    return [
        str(picture(tmp_path / f"{number}.png", number, height=height, width=width))
        for number, (height, width) in enumerate(SIZES)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return student_folder(tmp_path / "student")


def network(folder: Path, only: list[str] | None = None) -> tuple[Network, dict[str, TaskKind]]:
    opened = open_network(folder)
    return opened, answered_kinds(opened, only)


def answers(folder: Path, pictures: list[str], **how: object) -> list[Prediction]:
    found = list(predictions(*network(folder), find_pictures(pictures).pictures, **how))
    assert all(isinstance(each, Prediction) for each in found)
    return found


def pixels(path: str) -> Tensor:
    return read_image(Path(path).read_bytes())


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_every_answer_is_what_load_student_answers_for_that_image_alone(
    folder: Path, pictures: list[str], batch_size: int
) -> None:
    student = load_student(folder)
    found = answers(folder, pictures, batch_size=batch_size)
    assert [each.key for each in found] == [Path(path).name for path in pictures]
    for each, path in zip(found, pictures, strict=True):
        with torch.no_grad():
            wanted = student(pixels(path)[None] / 255)
        assert set(each.decoded) == set(KINDS)
        for task, decoded in each.decoded.items():
            assert set(decoded) == set(wanted[task]) - {"logits"}
            torch.testing.assert_close(each.logits[task], wanted[task]["logits"][0], atol=1e-4, rtol=1e-4)
            for name, value in decoded.items():
                torch.testing.assert_close(value, wanted[task][name][0], atol=1e-4, rtol=1e-4)


def test_answers_differ_between_pictures(folder: Path, pictures: list[str]) -> None:
    first, second, *_ = answers(folder, pictures)
    assert not torch.allclose(first.logits["breed"], second.logits["breed"], atol=1e-3)


def test_only_some_tasks_run(folder: Path, pictures: list[str]) -> None:
    [one] = predictions(*network(folder, ["far", "breed"]), find_pictures(pictures[:1]).pictures)
    assert isinstance(one, Prediction)
    assert list(one.decoded) == ["breed", "far"]


def test_the_centre_that_evaluation_shows_is_what_is_seen_and_the_rest_has_no_label(
    tmp_path: Path, pictures: list[str]
) -> None:
    folder = student_folder(tmp_path / "cropped", resize="crop")
    [one] = answers(folder, pictures[:1])
    image = pixels(pictures[0])
    with torch.no_grad():
        wanted = load_student(folder)(image[None, :, :, 4:16] / 255)
    torch.testing.assert_close(one.logits["breed"], wanted["breed"]["logits"][0])
    mask = one.decoded["part"]["label"]
    assert mask.shape == (12, 20)
    assert torch.equal(mask[:, 4:16], wanted["part"]["label"][0])
    assert mask[:, :4].eq(255).all()
    assert mask[:, 16:].eq(255).all()
    assert one.decoded["far"]["depth"][:, :4].eq(0).all()
    [whole] = answers(folder, pictures[:1], resize="squash")
    assert whole.decoded["part"]["label"].lt(255).all()


def test_a_letterbox_answers_for_the_whole_picture(folder: Path, pictures: list[str]) -> None:
    [one] = answers(folder, pictures[:1], resize="pad")
    boxed = torch.zeros(3, 20, 20, dtype=torch.uint8)
    boxed[:, 4:16] = pixels(pictures[0])
    with torch.no_grad():
        wanted = load_student(folder)(boxed[None] / 255)
    torch.testing.assert_close(one.logits["breed"], wanted["breed"]["logits"][0])
    torch.testing.assert_close(one.decoded["facing"]["normals"], wanted["facing"]["normals"][0, :, 4:16])


def test_what_cannot_be_read_keeps_its_place_and_costs_the_others_nothing(
    folder: Path, pictures: list[str], tmp_path: Path
) -> None:
    cut = tmp_path / "cut.png"
    cut.write_bytes(Path(pictures[0]).read_bytes()[:60])
    empty = tmp_path / "empty.jpg"
    empty.write_bytes(b"")
    named = [pictures[0], str(cut), pictures[1], str(empty)]
    found = list(predictions(*network(folder), find_pictures(named).pictures, batch_size=3))
    assert [type(each) for each in found] == [Prediction, Unread, Prediction, Unread]
    assert [each.key for each in found] == ["0.png", "cut.png", "1.png", "empty.jpg"]
    alone = answers(folder, pictures[:2])
    for mixed, one in zip(found[::2], alone, strict=True):
        assert isinstance(mixed, Prediction)
        torch.testing.assert_close(mixed.logits["pose"], one.logits["pose"])


def test_a_batch_of_unreadable_pictures_alone_is_no_error(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG nothing")
    [one] = predictions(*network(folder), find_pictures([str(broken)]).pictures)
    assert isinstance(one, Unread)
    assert "cannot be decoded" in one.reason


def test_a_picture_that_the_camera_turned_is_seen_upright(folder: Path, tmp_path: Path) -> None:
    upright = picture(tmp_path / "upright.png", 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned; viewers turn it clockwise
    Image.open(upright).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    straight, turned = answers(folder, [str(upright), str(tmp_path / "turned.png")])
    assert turned.size == straight.size == (12, 20)
    torch.testing.assert_close(turned.logits["breed"], straight.logits["breed"])
