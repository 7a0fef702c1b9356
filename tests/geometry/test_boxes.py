"""Boxes, points, pictures and masks move together, as torchvision moves them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode, functional

from distill_mtl.geometry.boxes import boxes_seen, points_seen
from distill_mtl.geometry.views import DRAWS, View, plain_view, training_view

MODES = st.sampled_from(["crop", "pad", "squash"])
CHANCES = st.lists(st.floats(0, 1, exclude_max=True), min_size=DRAWS, max_size=DRAWS)


def as_torchvision(thing: Tensor, view: View, size: tuple[int, int], mode: InterpolationMode) -> Tensor:
    """A tv_tensor cropped, resized and mirrored by torchvision's own functions.

    Not by `resized_crop`, which resizes masks by `nearest` whatever it is asked for: they lie half a pixel beside.
    """
    seen = functional.crop(thing, view.top, view.left, view.height, view.width)
    seen = functional.resize(seen, list(size), interpolation=mode, antialias=True)
    return functional.horizontal_flip(seen) if view.flip else seen


def unambiguous(view: View, size: tuple[int, int]) -> Tensor:
    """bool [H, W]: pixels of the view whose centre lies inside a pixel of the picture, not between two.

    There ours takes the right one, and torchvision what its float32 scale rounds to.
    """
    inside = [
        (torch.arange(1, 2 * side, 2) * length) % (2 * side) != 0
        for side, length in zip(size, (view.height, view.width), strict=True)
    ]
    inside[1] = inside[1].flip(0) if view.flip else inside[1]
    return inside[0][:, None] & inside[1]


@settings(max_examples=150, deadline=None)
@given(MODES, st.booleans(), CHANCES, st.integers(24, 60), st.integers(24, 60), st.data())
def test_a_box_stays_on_what_it_frames(
    mode: str, flip: bool, chance: list[float], height: int, width: int, data: st.DataObject
) -> None:
    """White pixels on black, seen under a large view, are where the box says."""
    left, top = data.draw(st.integers(0, width - 2)), data.draw(st.integers(0, height - 2))
    right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, top:bottom, left:right] = 255
    size = (128, 160)
    view = training_view((height, width), size, mode, (0.2, 1.0), flip, chance)
    (box,), (kept,) = boxes_seen(
        torch.tensor([[left, top, right, bottom]]).float(), view, (height, width), size
    )
    mapped = view.map((image[0] > 0).long(), size, 0)
    centre = ((left + right) / 2, (top + bottom) / 2)
    if not mapped.any():
        assert box[2] - box[0] < 1 or box[3] - box[1] < 1
        return
    lines, columns = mapped.any(1).nonzero().flatten(), mapped.any(0).nonzero().flatten()
    found = torch.stack([columns[0], lines[0], columns[-1] + 1, lines[-1] + 1])
    assert (found - box).abs().max() <= 0.5 + 1e-3
    bright = view.image(image, size)[0] > 127
    if (found[2] - found[0]) * view.width > 4 * size[1] and (found[3] - found[1]) * view.height > 4 * size[0]:
        lines, columns = bright.any(1).nonzero().flatten(), bright.any(0).nonzero().flatten()
        found = torch.stack([columns[0], lines[0], columns[-1] + 1, lines[-1] + 1])
        # A letterbox's border is rounded to whole pixels before its inside is resized.
        assert (found - box).abs().max() <= (2 if mode == "pad" else 1)
    inside = view.left <= centre[0] <= view.left + view.width
    inside = inside and view.top <= centre[1] <= view.top + view.height
    share = mapped.sum() / (size[0] * size[1]) * view.height * view.width / ((right - left) * (bottom - top))
    if inside or share > 0.3:
        assert kept
    elif share < 0.2:
        assert not kept


@settings(max_examples=100, deadline=None)
@given(MODES, st.booleans(), CHANCES, st.integers(24, 60), st.integers(24, 60), st.data())
def test_a_point_stays_on_its_pixel(
    mode: str, flip: bool, chance: list[float], height: int, width: int, data: st.DataObject
) -> None:
    column, line = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    label = torch.zeros(height, width, dtype=torch.long)
    label[line, column] = 1
    size = (256, 256)
    view = training_view((height, width), size, mode, (0.2, 1.0), flip, chance)
    (point,), (kept,) = points_seen(torch.tensor([[column + 0.5, line + 0.5]]), view, (height, width), size)
    seen = view.map(label, size, 0)
    assert bool(kept) == bool(seen.any())
    if kept:
        middle = seen.nonzero().double().mean(0).flip(0) + 0.5
        assert (middle - point).abs().max() <= 0.5 + 1e-3


def test_a_letterbox_moves_boxes_into_its_middle() -> None:
    view = plain_view((4, 8), (8, 8), "pad")
    boxes, kept = boxes_seen(torch.tensor([[0.0, 0, 8, 4], [-3, -3, 2, 2]]), view, (4, 8), (8, 8))
    assert boxes.tolist() == [[0, 2, 8, 6], [0, 2, 2, 4]]  # what lay beyond the picture is not in the border
    assert kept.all()
    points, kept = points_seen(torch.tensor([[1.0, 1], [1, -1], [8, 4]]), view, (4, 8), (8, 8))
    assert points.tolist() == [[1, 3], [1, 1], [8, 6]]
    assert kept.tolist() == [True, False, True]


def test_boxes_are_dropped_when_little_is_left_of_them() -> None:
    view = View(0, 0, 10, 10)
    boxes = torch.tensor(
        [[8.0, 0, 18, 5], [7, 0, 17, 5], [0, 0, 40, 40], [30, 30, 40, 40], [-5, 0, 15, 10], [10, 0, 20, 5]]
    )
    _, kept = boxes_seen(boxes, view, (40, 40), (10, 10))
    assert kept.tolist() == [False, True, False, False, True, False]


def test_no_box_is_no_box() -> None:
    boxes, kept = boxes_seen(torch.zeros(0, 4), View(0, 0, 8, 8, True), (8, 8), (4, 4))
    assert boxes.shape == (0, 4)
    assert kept.shape == (0,)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["crop", "squash"]), st.booleans(), CHANCES, st.integers(2, 60), st.integers(2, 60))
def test_pictures_and_masks_move_as_torchvision_moves_them(
    mode: str, flip: bool, chance: list[float], height: int, width: int
) -> None:
    """Pixels differ by rounding alone, masks where a new pixel's centre lies on the border of two old ones.

    Masks are images to torchvision: its earlier versions resize a Mask by NEAREST whatever they are told.
    """
    size = (17, 24)
    view = training_view((height, width), size, mode, (0.2, 1.0), flip, chance)
    picture = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    mask = torch.randint(0, 9, (1, height, width), dtype=torch.uint8)
    expected = as_torchvision(tv_tensors.Image(picture), view, size, InterpolationMode.BILINEAR)
    assert (view.image(picture, size).int() - expected.int()).abs().max() <= 1
    nearest = as_torchvision(tv_tensors.Image(mask), view, size, InterpolationMode.NEAREST_EXACT)
    clear = unambiguous(view, size)
    assert torch.equal(view.map(mask, size, 255)[0][clear], nearest.as_subclass(Tensor)[0][clear])


@settings(max_examples=50, deadline=None)
@given(CHANCES, st.booleans(), st.integers(8, 60), st.integers(8, 60))
def test_masks_of_a_letterbox_are_torchvisions_inside_the_picture(
    chance: list[float], flip: bool, height: int, width: int
) -> None:
    size = (24, 24)
    view = training_view((height, width), size, "pad", (0.5, 1.0), flip, chance)
    mask = torch.randint(1, 9, (1, height, width), dtype=torch.uint8)
    expected = as_torchvision(tv_tensors.Image(mask), view, size, InterpolationMode.NEAREST_EXACT)
    clear = unambiguous(view, size)
    assert torch.equal(view.map(mask, size, 0)[0][clear], expected.as_subclass(Tensor)[0][clear])


def test_torchvisions_keypoints_are_numbers_of_pixels_in_a_mirror_alone() -> None:
    """Why points move as boxes without size. If this fails, torchvision has changed: points may be KeyPoints then."""
    points = tv_tensors.KeyPoints([[0.0, 0.0]], canvas_size=(8, 8))
    assert functional.horizontal_flip(points).tolist() == [[7.0, 0.0]]
    right = tv_tensors.KeyPoints([[8.0, 0.0]], canvas_size=(8, 8))
    assert functional.resize(right, [16, 16]).tolist() == [[16.0, 0.0]]
    moved, _ = points_seen(torch.tensor([[0.0, 0.0]]), View(0, 0, 8, 8, flip=True), (8, 8), (16, 16))
    assert moved.tolist() == [[pytest.approx(16.0), 0.0]]
