"""Each form of boxes is found by names, shapes and a trial, and read to the same boxes."""

from pathlib import Path
from typing import Any

import detector_toys
import pytest
import torch
from torch import Tensor, nn

from distill_mtl.errors import TeacherError, UserError
from distill_mtl.networks.box_form import BOX_FORMS, BoxReading, read_boxes
from distill_mtl.networks.box_recognition import find_reading, may_be_boxes
from distill_mtl.networks.boxes import ScoredBoxes
from distill_mtl.networks.inputs import InputContract
from distill_mtl.networks.opening import open_network
from distill_mtl.networks.runtime import named
from distill_mtl.recipe.schema import OutputSection, TeacherSection
from distill_mtl.teachers.load_teacher import load_teacher

SIZE = (detector_toys.SIDE,) * 2
CONTRACT = InputContract(SIZE, (0.0,) * 3, (1.0,) * 3)
FORMS = ("yolo", "yolov5", "yolo_nms", "detr", "detr_sigmoid", "scores", "torchvision", "ssd")


@torch.no_grad()
def outputs(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    return named(network(images), Path("network"))


def noise() -> Tensor:
    return torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def found_by(network: nn.Module, **said: object) -> BoxReading:
    reading = find_reading(outputs(network, noise()), SIZE, OutputSection.model_validate(said))
    assert reading is not None
    return reading


def assert_right(found: ScoredBoxes, objects: list[list[dict]]) -> None:
    """The boxes with a high score are the objects, to the pixel."""
    for row, things in enumerate(objects):
        sure = found.scores[row] > 0.5
        mine = torch.cat([found.boxes[row][sure], found.labels[row][sure, None].float()], 1)
        truth = [
            [left, top, left + width, top + height, float(detector_toys.CLASSES.index(thing["class"]))]
            for thing in things
            for left, top, width, height in [thing["box"]]
        ]
        torch.testing.assert_close(
            torch.tensor(sorted(mine.round().tolist())), torch.tensor(sorted(truth)), atol=1e-3, rtol=0
        )


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_recognised_and_gives_the_same_boxes(form: str) -> None:
    network = detector_toys.usual(form)
    reading = found_by(network)
    assert reading.form == form.removesuffix("_sigmoid")
    assert reading.unit == ("shares" if form in detector_toys.SHARES else "pixels")
    images, objects = detector_toys.pictures(4)
    assert_right(read_boxes(outputs(network, images), reading, CONTRACT, classes=2), objects)


@pytest.mark.parametrize("form", ["yolo", "yolov5"])
@pytest.mark.parametrize("corners", ["cxcywh", "xyxy"])
@pytest.mark.parametrize("unit", ["pixels", "shares"])
def test_a_trial_tells_corners_and_unit(form: str, corners: str, unit: str) -> None:
    network = detector_toys.make(form, corners=corners, unit=unit)
    reading = found_by(network)
    assert (reading.corners, reading.unit) == (corners, unit)
    assert {"corners", "unit"} <= set(reading.found)
    images, objects = detector_toys.pictures(4)
    assert_right(read_boxes(outputs(network, images), reading, CONTRACT), objects)


def test_the_recipe_decides_against_a_trial() -> None:
    reading = found_by(detector_toys.make("yolo"), form="yolo", corners="xywh", unit="shares", overlap=0.3)
    assert (reading.corners, reading.unit, reading.overlap) == ("xywh", "shares", 0.3)
    assert reading.found == ()


@pytest.mark.parametrize(("classes", "background"), [(2, "last"), (3, "none")])
def test_the_number_of_classes_tells_what_the_last_column_is(classes: int, background: str) -> None:
    raw = {"logits": torch.randn(2, 10, 3) * 3, "pred_boxes": torch.rand(2, 10, 4)}
    reading = find_reading(raw, SIZE, classes=classes)
    assert reading is not None
    assert reading.background == background


def test_lists_of_several_lengths_are_filled_with_nothing() -> None:
    rows = [
        {
            "boxes": torch.rand(number, 4),
            "labels": torch.ones(number, dtype=torch.int64),
            "scores": torch.ones(number),
        }
        for number in (3, 0, 5)
    ]
    filled = named(rows, Path("network"))
    assert {name: tuple(value.shape) for name, value in filled.items()} == {
        "boxes": (3, 5, 4),
        "labels": (3, 5),
        "scores": (3, 5),
    }
    assert filled["scores"].sum(1).tolist() == [3, 0, 5]


def test_a_picture_in_which_nothing_is_found_has_no_boxes() -> None:
    raw = {"boxes": torch.rand(2, 0, 4), "labels": torch.ones(2, 0).long(), "scores": torch.rand(2, 0)}
    reading = find_reading(raw, SIZE)
    assert reading is not None
    assert (read_boxes(raw, reading, CONTRACT).labels == -1).all()


def test_what_exporters_of_one_picture_leave_out_is_put_back() -> None:
    raw = {"1006": torch.ones(7, dtype=torch.int64), "1005": torch.rand(7), "1036": torch.rand(7, 4) * 30}
    reading = find_reading(raw, SIZE)
    assert reading is not None
    assert reading.outputs == {"boxes": "1036", "labels": "1006", "scores": "1005"}
    assert read_boxes(raw, reading, CONTRACT, classes=1).boxes.shape[0] == 1


@pytest.mark.parametrize(
    "raw",
    [
        {"logits": torch.rand(2, 4)},
        {"logits": torch.rand(2, 4, 8, 8)},
        {"tokens": torch.randn(2, 21, 64)},
        {"cells": torch.randn(2, 64, 21)},  # as many places as a YOLO has, but no scores
        {"depth": torch.rand(2, 32, 32)},
        {"a": torch.rand(2, 4), "b": torch.rand(2), "c": torch.rand(2)},  # three answers about two pictures
        {"hidden": torch.randn(2, 9, 4), "other": torch.randn(2, 9, 16)},
    ],
    ids=lambda raw: next(iter(raw)),
)
def test_other_answers_are_not_taken_for_boxes(raw: dict[str, Tensor]) -> None:
    assert find_reading(raw, SIZE) is None


# ---- refused --------------------------------------------------------------------------------------
def yolo_rows(*further: Tensor) -> Tensor:
    """[2, 4 + 2 + ..., 21] with such columns behind the scores."""
    boxes = torch.rand(2, 4, 21) * 30
    return torch.cat([boxes, torch.rand(2, 2, 21), *further], 1)


def listed(further: Tensor) -> Tensor:
    """[1, 30, 6 + ...]: box, score and class, and such columns behind them."""
    return torch.cat([torch.rand(1, 30, 5), torch.ones(1, 30, 1), further], 2)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"output0": yolo_rows(torch.randn(2, 8, 21)), "output1": torch.randn(2, 8, 8, 8)}, "instance masks"),
        (
            {
                "boxes": torch.rand(3, 4),
                "labels": torch.ones(3).long(),
                "scores": torch.rand(3),
                "masks": torch.rand(3, 1, 8, 8),
            },
            "instance masks",
        ),
        (
            {
                "9": torch.rand(3, 4),
                "8": torch.ones(3).long(),
                "7": torch.rand(3),
                "6": torch.rand(3, 1, 8, 8),
            },
            "instance masks",
        ),
        (
            {"output0": listed(torch.randn(1, 30, 8)), "output1": torch.randn(1, 8, 8, 8)},
            "instance masks",
        ),
        ({"output0": yolo_rows(torch.rand(2, 1, 21) * 3 - 0.7)}, "oriented boxes"),
        (
            {"output0": listed(torch.rand(1, 30, 1) * 3 - 0.7)},
            "oriented boxes",
        ),
    ],
    ids=["yolo masks", "torchvision masks", "unnamed masks", "listed masks", "oriented", "listed oriented"],
)
def test_masks_and_oriented_boxes_are_refused_in_one_line(raw: dict[str, Tensor], words: str) -> None:
    with pytest.raises(UserError, match=f"{words}.* not read") as caught:
        find_reading(raw, SIZE)
    assert "\n" not in str(caught.value)


def test_a_detector_without_a_known_form_is_told_the_known_ones() -> None:
    raw = {"strange": torch.randn(2, 3, 7)}
    with pytest.raises(UserError, match=r"strange \[2, 3, 7\] are no known form of boxes") as caught:
        find_reading(raw, SIZE, OutputSection(gives="boxes"))
    assert all(name in str(caught.value) for name in BOX_FORMS.names())


def test_a_form_that_the_outputs_do_not_have_is_refused() -> None:
    with pytest.raises(UserError, match="not of the form ssd"):
        find_reading(outputs(detector_toys.make("yolo"), noise()), SIZE, OutputSection(form="ssd"))


def test_an_unknown_form_names_the_nearest_one() -> None:
    with pytest.raises(UserError, match=r"unknown form of boxes 'yolo5'\. Did you mean 'yolov5'\?"):
        find_reading({"output": torch.rand(2, 3)}, SIZE, OutputSection(form="yolo5"))


def test_a_list_cannot_have_its_background_last() -> None:
    with pytest.raises(
        UserError, match=r"background: last` is impossible for the form ssd. Possible: none, first"
    ):
        found_by(detector_toys.usual("ssd"), background="last")


def test_what_is_said_of_boxes_of_an_answer_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match=r"`output\.corners` is about boxes, and `output\.gives` says logits"):
        may_be_boxes(OutputSection(gives="logits", corners="xyxy"), known=False)
    assert may_be_boxes(OutputSection(form="yolo"), known=True)
    assert not may_be_boxes(OutputSection(), known=True)


@pytest.mark.parametrize(
    ("form", "inputs", "pad", "assumed"),
    [
        ("yolo", {"resize": "pad"}, 114, True),
        ("yolo", {"resize": "pad", "pad": 0}, 0, False),
        ("yolo", {}, 0, False),
        ("yolov5", {"resize": "pad"}, 114, True),
        ("yolo_nms", {"resize": "pad"}, 114, True),
        ("detr", {"resize": "pad"}, 0, False),
    ],
)
def test_a_padded_yolo_sees_the_grey_that_it_was_trained_with_unless_it_is_said(
    tmp_path: Path, form: str, inputs: dict[str, Any], pad: int, assumed: bool
) -> None:
    unit = "shares" if form == "detr" else "pixels"
    path = detector_toys.save_pt2(detector_toys.make(form, unit=unit), tmp_path / "n.pt2")
    section = {"path": str(path), "trust": True, "classes": 2, "input": inputs}
    opened = open_network(TeacherSection.model_validate(section))
    assert (opened.inputs.pad, "pad" in opened.assumed) == (pad, assumed)


def test_an_unknown_form_that_nobody_called_boxes_points_to_the_known_ones(tmp_path: Path) -> None:
    class Strange(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(2)[:, :, :7]

    path = detector_toys.save_pt2(Strange().eval(), tmp_path / "strange.pt2")
    with pytest.raises(TeacherError, match=r"\[2, 3, 7\].*`output: \{gives: boxes\}` lists the known forms"):
        load_teacher(TeacherSection(path=str(path), trust=True), task="things")
