"""A view frames picture and dense labels alike, and stays inside what was asked for."""

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_mtl.geometry.views import DRAWS, Resize, View, plain_view, training_view

sides = st.integers(1, 60)
chances = st.lists(st.floats(0, 1, exclude_max=True), min_size=DRAWS, max_size=DRAWS)
modes = st.sampled_from(["crop", "pad", "squash"])


def picture(height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8)


def test_a_picture_of_the_right_size_is_not_resampled() -> None:
    image = picture(8, 12)
    for mode in ("crop", "pad", "squash"):
        view = plain_view((8, 12), (8, 12), mode)
        assert view.image(image, (8, 12)) is image
        assert torch.equal(view.map(image[0], (8, 12), 255), image[0])
        flipped = View(view.top, view.left, view.height, view.width, flip=True)
        assert torch.equal(flipped.image(image, (8, 12)), image.flip(2))
        assert torch.equal(flipped.map(image[0], (8, 12), 255), image[0].flip(1))


def test_crop_takes_the_largest_centred_box() -> None:
    assert plain_view((40, 100), (8, 8), "crop") == View(0, 30, 40, 40)
    assert plain_view((90, 40), (8, 16), "crop") == View(35, 0, 20, 40)


def test_squash_takes_everything() -> None:
    assert plain_view((40, 100), (8, 8), "squash") == View(0, 0, 40, 100)


def test_pad_takes_everything_and_a_black_border() -> None:
    view = plain_view((4, 8), (8, 8), "pad")
    assert view == View(-2, 0, 8, 8)
    image = picture(4, 8).clamp(min=1)
    seen = view.image(image, (8, 8))
    assert torch.equal(seen[:, 2:6], image)
    assert not seen[:, :2].any()
    assert not seen[:, 6:].any()
    label = view.map(image[0].long(), (8, 8), 255)
    assert torch.equal(label[2:6], image[0].long())
    assert (label[:2] == 255).all()
    assert (label[6:] == 255).all()


def test_a_resized_box_is_antialiased_bilinear() -> None:
    image = picture(32, 32)
    box = image[None, :, 4:28, 8:28].float()
    for size in ((8, 8), (40, 40), (8, 40), (1, 1), (5, 1)):
        seen = View(4, 8, 24, 20).image(image, size)
        expected = F.interpolate(box, size, mode="bilinear", antialias=True)[0]
        assert (seen - expected).abs().max() <= 1


def test_labels_take_the_nearest_pixel() -> None:
    label = torch.arange(36).view(6, 6)
    exact = F.interpolate(label[None, None].float(), (4, 9), mode="nearest-exact")[0, 0]
    assert torch.equal(View(0, 0, 6, 6).map(label, (4, 9), 255), exact.long())
    assert View(0, 0, 6, 6).map(label, (2, 3), 255).tolist() == [[7, 9, 11], [25, 27, 29]]
    assert View(1, 2, 2, 2).map(label, (4, 4), 255)[:, 0].tolist() == [8, 8, 14, 14]


@settings(max_examples=200, deadline=None)
@given(sides, sides, st.integers(1, 24), st.integers(1, 24), modes, st.booleans(), chances)
def test_every_view_of_every_picture_has_the_size_and_stays_in_its_canvas(
    height: int, width: int, out_height: int, out_width: int, mode: str, flip: bool, chance: list[float]
) -> None:
    size = (out_height, out_width)
    image = picture(height, width).clamp(min=1)
    for view in (
        plain_view((height, width), size, mode),
        training_view((height, width), size, mode, (0.1, 1.0), flip, chance),
        training_view((height, width), size, mode, None, flip, chance),
    ):
        assert view.image(image, size).shape == (3, *size)
        assert view.map(image[0].long(), size, -1).shape == size
        inside = view.top >= 0 and view.top + view.height <= height
        across = view.left >= 0 and view.left + view.width <= width
        assert mode == "pad" or (inside and across)
        assert view.image(image, size).any(), "some of the picture is always seen"


@settings(max_examples=100, deadline=None)
@given(modes, st.booleans(), chances, st.integers(20, 50), st.integers(20, 50))
def test_picture_and_label_stay_aligned(
    mode: str, flip: bool, chance: list[float], height: int, width: int
) -> None:
    # A picture that is its own label: bright on the right of a slanted line.
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    label = (columns * 2 + rows > (2 * width + height) / 2).long()
    image = (label * 255).to(torch.uint8).expand(3, -1, -1)
    view = training_view((height, width), (16, 16), mode, (0.5, 1.0), flip, chance)
    seen, mapped = view.image(image, (16, 16))[0], view.map(label, (16, 16), -1)
    clear = (mapped >= 0) & ((seen < 30) | (seen > 225))
    agree = (seen > 127).long() == mapped
    # The rounded border of a letterbox may differ by a pixel; the content may not.
    assert agree[clear].float().mean() > 0.93


def test_boxes_have_the_area_and_aspect_that_were_asked_for() -> None:
    generator = torch.Generator().manual_seed(0)
    areas, aspects, flips = [], [], []
    for chance in torch.rand(4000, DRAWS, generator=generator).tolist():
        view = training_view((200, 200), (8, 8), "crop", (0.3, 0.6), True, chance)
        areas.append(view.height * view.width / 200**2)
        aspects.append(view.width / view.height)
        flips.append(view.flip)
    assert min(areas) > 0.29
    assert max(areas) < 0.61
    assert abs(sum(areas) / 4000 - 0.45) < 0.01
    assert min(aspects) > 0.73
    assert max(aspects) < 1.36
    assert 0.47 < sum(aspect > 1 for aspect in aspects) / 4000 < 0.53
    assert 0.47 < sum(flips) / 4000 < 0.53


def test_without_crop_and_flip_training_sees_the_plain_view() -> None:
    for mode in ("crop", "pad", "squash"):
        plain = plain_view((30, 47), (8, 8), mode)
        assert training_view((30, 47), (8, 8), mode, None, False, [0.1] * DRAWS) == plain
        whole = training_view((30, 47), (8, 8), mode, (1.0, 1.0), False, [0.9, 0.5, 0.5, 0.5, 0.5])
        assert abs(whole.height - plain.height) <= 1
        assert abs(whole.width - plain.width) <= 1


@given(picture=st.tuples(sides, sides), size=st.tuples(sides, sides), mode=modes, chance=chances)
def test_a_small_picture_is_moved_and_keeps_its_scale(
    picture: tuple[int, int], size: tuple[int, int], mode: Resize, chance: list[float]
) -> None:
    plain = plain_view(picture, size, mode)
    moved = training_view(picture, size, mode, 0.125, False, chance)
    assert (moved.height, moved.width) == (plain.height, plain.width)
    assert abs(moved.top - plain.top) <= round(0.125 * plain.height)
    assert abs(moved.left - plain.left) <= round(0.125 * plain.width)


def test_every_distance_is_as_likely() -> None:
    tops = [
        training_view((32, 32), (32, 32), "crop", 0.125, False, [0, 0, 0, chance / 90, 0]).top
        for chance in range(90)
    ]
    assert [tops.count(top) for top in range(-4, 5)] == [10] * 9


def test_picture_and_mask_move_together_and_are_filled_beyond_the_border() -> None:
    image = picture(8, 8).clamp(min=1)
    view = training_view((8, 8), (8, 8), "crop", 0.25, False, [0, 0, 0, 0.999, 0])
    assert view == View(2, -2, 8, 8)
    seen, label = view.image(image, (8, 8)), view.map(image[0].long(), (8, 8), 255)
    assert torch.equal(seen[:, :6, 2:], image[:, 2:, :6])
    assert torch.equal(label[:6, 2:], image[0, 2:, :6].long())
    assert not seen[:, 6:].any()
    assert not seen[:, :, :2].any()
    assert (label[6:] == 255).all()
    assert (label[:, :2] == 255).all()
