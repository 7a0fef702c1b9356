import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from distill_mtl.errors import UserError
from distill_mtl.networks.inputs import InputContract, Preprocess

RGB = InputContract((4, 6), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def test_images_of_the_right_size_are_only_normalised() -> None:
    images = torch.rand(2, 3, 4, 6)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (RGB.mean, RGB.std))
    assert torch.allclose(Preprocess(RGB)(images), (images - mean) / std)


def test_a_resize_filters_as_pil_does() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    contract = InputContract((12, 20), (0.0,) * 3, (1.0,) * 3, interpolation="bicubic")
    ours = Preprocess(contract)(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)[0]
    theirs = np.asarray(Image.fromarray(pixels).resize((20, 12), Image.Resampling.BICUBIC))
    assert (ours * 255 - torch.from_numpy(theirs.copy()).permute(2, 0, 1)).abs().max() < 1.5


def test_a_cubic_resize_stays_within_black_and_white() -> None:
    images = torch.zeros(1, 3, 16, 16)
    images[..., 8:] = 1
    seen = Preprocess(InputContract((15, 15), (0.0,) * 3, (1.0,) * 3, interpolation="bicubic"))(images)
    assert 0 <= float(seen.min()) <= float(seen.max()) <= 1


def test_bgr_swaps_red_and_blue_before_normalising() -> None:
    images = torch.rand(1, 3, 4, 6)
    swapped = Preprocess(InputContract(RGB.size, RGB.mean, RGB.std, channels="bgr"))(images)
    assert torch.equal(swapped, Preprocess(RGB)(images.flip(1)))


def test_a_grey_network_sees_luma() -> None:
    grey = InputContract((4, 6), (0.0,), (1.0,), channels="grey")
    images = torch.rand(2, 3, 4, 6)
    luma = 0.299 * images[:, 0] + 0.587 * images[:, 1] + 0.114 * images[:, 2]
    assert torch.allclose(Preprocess(grey)(images)[:, 0], luma)


def test_grey_images_reach_a_colour_network_in_three_equal_channels() -> None:
    images = torch.rand(2, 1, 4, 6)
    assert torch.equal(Preprocess(RGB)(images), Preprocess(RGB)(images.expand(-1, 3, -1, -1)))


def test_scale_255_is_for_means_of_0_to_255() -> None:
    caffe = InputContract((4, 6), (104.0, 117.0, 123.0), (1.0, 1.0, 1.0), channels="bgr", white=255.0)
    images = torch.rand(1, 3, 4, 6)
    expected = images.flip(1) * 255 - torch.tensor(caffe.mean).view(3, 1, 1)
    assert torch.allclose(Preprocess(caffe)(images), expected, atol=1e-4)


def test_preprocessing_adds_nothing_to_the_state_dict() -> None:
    assert Preprocess(RGB).state_dict() == {}


def test_output_has_the_precision_of_the_network() -> None:
    assert Preprocess(RGB).to(torch.bfloat16)(torch.rand(1, 3, 4, 6)).dtype == torch.bfloat16


def test_bytes_are_refused() -> None:
    with pytest.raises(TypeError, match="divide uint8 by 255"):
        Preprocess(RGB)(torch.zeros(1, 3, 4, 6, dtype=torch.uint8))


@pytest.mark.parametrize("shape", [(3, 4, 6), (1, 4, 4, 6)])
def test_what_is_no_batch_of_images_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected images"):
        Preprocess(RGB)(torch.rand(shape))


def test_a_contract_survives_json() -> None:
    contract = InputContract((4, 6), (0.5,), (0.25,), interpolation="bicubic", channels="grey")
    assert InputContract.from_dict(json.loads(json.dumps(contract.to_dict()))) == contract


def test_unknown_keys_of_a_contract_are_refused() -> None:
    with pytest.raises(ValueError, match="cropping"):
        InputContract.from_dict({**RGB.to_dict(), "cropping": 0.9})


def test_impossible_contracts_are_refused() -> None:
    with pytest.raises(ValueError, match="3 means"):
        InputContract((4, 4), (0.5,), (0.5,))
    with pytest.raises(ValueError, match="positive"):
        InputContract((4, 4), (0.5,) * 3, (0.5, 0.0, 0.5))


def test_timms_configuration_is_understood() -> None:
    cfg = {
        "input_size": (3, 160, 192),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.2, 0.2, 0.2),
        "interpolation": "bicubic",
    }
    contract = InputContract.from_timm(cfg)
    assert contract == InputContract((160, 192), (0.5,) * 3, (0.2,) * 3, interpolation="bicubic")
    assert InputContract.from_timm(cfg, size=(32, 32)).size == (32, 32)


def test_a_grey_timm_network_with_colour_statistics_gets_their_average() -> None:
    contract = InputContract.from_timm(
        {"input_size": (1, 8, 8), "mean": (0.1, 0.2, 0.3), "std": (0.3, 0.3, 0.3)}
    )
    assert contract.channels == "grey"
    assert contract.mean == pytest.approx((0.2,))
    assert contract.std == pytest.approx((0.3,))


def test_a_network_of_five_channels_is_refused() -> None:
    with pytest.raises(UserError, match="5 channels"):
        InputContract.from_timm({"input_size": (5, 8, 8), "mean": (0.0,) * 5, "std": (1.0,) * 5})


@pytest.mark.parametrize(
    ("resize", "rows", "columns"), [("crop", slice(0, 4), slice(2, 6)), ("squash", slice(0, 4), slice(0, 8))]
)
def test_a_wide_view_is_cropped_or_squashed(resize: str, rows: slice, columns: slice) -> None:
    image = torch.rand(1, 3, 4, 8)
    contract = InputContract((4, 4), (0.0,) * 3, (1.0,) * 3, resize=resize)
    expected = torch.nn.functional.interpolate(
        image[..., rows, columns], (4, 4), mode="bilinear", antialias=True
    )
    assert torch.allclose(Preprocess(contract)(image), expected, atol=1e-6)


def test_a_padded_view_keeps_its_shape_between_black_bars() -> None:
    contract = InputContract((8, 8), (0.0,) * 3, (1.0,) * 3, resize="pad")
    seen = Preprocess(contract)(torch.ones(1, 3, 4, 8))
    assert torch.equal(seen[0, 0].sum(1), torch.tensor([0.0, 0, 8, 8, 8, 8, 0, 0]))


@pytest.mark.parametrize("channels", ["rgb", "grey", "grey3"])
def test_what_lies_beside_a_padded_view_is_normalised_like_its_pixels(channels: str) -> None:
    depth = 1 if channels == "grey" else 3
    contract = InputContract(
        (8, 8), (0.5,) * depth, (0.25,) * depth, channels=channels, resize="pad", pad=114
    )
    seen = Preprocess(contract)(torch.ones(1, 3, 4, 8))
    assert torch.allclose(seen[:, :, :2], torch.tensor((114 / 255 - 0.5) / 0.25))
    assert torch.allclose(seen[:, :, 2:6], torch.tensor(2.0))
    with pytest.raises(ValueError, match="pad is a level from 0 to 255, found 256"):
        replace(contract, pad=256)


def test_the_centre_is_seen_as_timm_crops_it() -> None:
    image = torch.rand(1, 3, 8, 8)
    contract = InputContract((6, 6), (0.0,) * 3, (1.0,) * 3, crop=0.75)
    assert torch.equal(Preprocess(contract)(image), image[..., 1:7, 1:7])


def test_bytes_with_channels_last_are_what_a_camera_network_sees() -> None:
    pixels = torch.randint(0, 256, (2, 3, 4, 6), dtype=torch.uint8)
    contract = InputContract(
        (4, 6), (0.0,) * 3, (1.0,) * 3, white=255.0, layout="nhwc", dtype="uint8", channels="bgr"
    )
    assert torch.equal(Preprocess(contract)(pixels / 255), pixels.flip(1).permute(0, 2, 3, 1))


def test_bytes_cannot_be_normalised() -> None:
    with pytest.raises(ValueError, match="uint8 pixels are whole numbers"):
        InputContract((4, 4), (0.5,) * 3, (1.0,) * 3, dtype="uint8")


def test_a_network_of_three_grey_channels_sees_luma_in_each() -> None:
    image = torch.rand(2, 3, 4, 4)
    grey3 = InputContract((4, 4), (0.0,) * 3, (1.0,) * 3, channels="grey3")
    grey = InputContract((4, 4), (0.0,), (1.0,), channels="grey")
    seen = Preprocess(grey3)(image)
    assert seen.shape == (2, 3, 4, 4)
    assert torch.equal(seen[:, :1], Preprocess(grey)(image))
    assert torch.equal(seen[:, 0], seen[:, 2])
