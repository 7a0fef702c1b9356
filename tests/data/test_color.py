import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from distill_mtl.data.augmentation import jitter_colors


def mild_images() -> torch.Tensor:
    """Far enough from black and white that nothing is clamped on the way."""
    return 0.35 + 0.3 * torch.rand(5, 3, 6, 7)


def test_the_three_changes_are_those_of_torchvision() -> None:
    images = mild_images()
    color = torch.tensor([[1.0, 1.0, 1.0], [1.2, 1, 1], [1, 0.8, 1], [1, 1, 1.3], [0.9, 1.1, 0.7]])
    changed = jitter_colors(images, color)
    for image, factors, found in zip(images, color.tolist(), changed, strict=True):
        expected = functional.adjust_brightness(image, factors[0])
        expected = functional.adjust_contrast(expected, factors[1])
        expected = functional.adjust_saturation(expected, factors[2])
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)  # torchvision rounds the grey weights


def test_each_row_has_its_own_factors_and_the_input_stays_as_it_is() -> None:
    images = mild_images()
    before = images.clone()
    color = torch.ones(5, 3)
    color[2] = torch.tensor([0.7, 1.2, 0.8])
    changed = jitter_colors(images, color)
    assert torch.equal(images, before)
    moved = (changed - images).abs().amax(dim=(1, 2, 3)) > 1e-5
    assert moved.tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_colours_stay_in_range(dtype: torch.dtype) -> None:
    images = torch.rand(4, 3, 8, 8).to(dtype)
    color = torch.from_numpy(np.random.RandomState(0).uniform(0.1, 1.9, (4, 3))).float()
    changed = jitter_colors(images, color)
    assert changed.dtype == dtype
    assert changed.min() >= 0
    assert changed.max() <= 1


def test_nothing_to_change_is_nothing_done() -> None:
    images = mild_images()
    assert jitter_colors(images, None) is images
