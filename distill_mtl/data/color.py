"""Photometric augmentation: brightness, contrast and saturation of a batch, for the student alone."""

import torch
from torch import Tensor

# ITU-R BT.601, the weights that PIL and torchvision use for grey.
_LUMA = (0.299, 0.587, 0.114)


def jitter_colors(images: Tensor, color: Tensor | None) -> Tensor:
    """Change the colours of every row by its own factors, in this order: brightness, contrast, saturation.

    The factors come with the batch (`Batch.color`), drawn from (seed, source, epoch, row), so a row looks
    the same however the batch is split over processes and micro-batches.

    Args:
        images: float [B, 3, H, W] in [0, 1].
        color: [B, 3] factors, 1 for no change; None leaves the images as they are.

    Returns:
        [B, 3, H, W] in [0, 1], in the dtype of `images`.
    """
    if color is None:
        return images
    brightness, contrast, saturation = color.to(images.dtype)[:, :, None, None, None].unbind(dim=1)
    luma = torch.tensor(_LUMA, device=images.device, dtype=images.dtype).view(1, 3, 1, 1)
    grey = (images * luma).sum(dim=1, keepdim=True)
    mean = grey.mean(dim=(2, 3), keepdim=True)
    # The three changes are blends (with black, with the mean grey, with the pixel's grey) and so linear:
    # this is their composition, clamped once.
    scale = brightness * contrast
    changed = images * (scale * saturation)
    changed += grey * (scale * (1 - saturation)) + mean * (brightness * (1 - contrast))
    return changed.clamp_(0, 1)
