"""Augmentation of a training row: its view, and its colours.

The view is a pure function of the row and its turn: a fresh one each epoch, or a fixed number of them in turn, drawn
from a hash. The target cache (`targets/cached.py`) gives back the views that it recorded. Student and teachers
see the same view; brightness, contrast and saturation change for the student alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill_mtl.data.batch import Integers
from distill_mtl.data.source import Source
from distill_mtl.geometry.views import DRAWS, Size, View, plain_view, training_view
from distill_mtl.recipe.schema import AugmentSection
from distill_mtl.splitmix import fold, uniforms

SMALL = 64
"""Pixels of a view's longer side, up to which pictures are moved and not scaled."""
SHIFT, AREA = 0.125, (0.5, 1.0)

ChooseView = Callable[[int, int, Size], View]
"""(place, row, height and width of its picture) -> its view. `row` is the one asked for at `place`, or the
one that replaces it because its picture cannot be decoded."""


def crop_for(augment: AugmentSection, size: Size) -> tuple[float, float] | float | None:
    """The crop of a data set; `auto` follows the height and width of the views.

    Small pictures have little that a crop could leave out, and what they show fills them: digits of 28 pixels lose 1.4
    points by crops of half their area.
    """
    if augment.crop != "auto":
        return augment.crop
    return SHIFT if max(size) <= SMALL else AREA


class TrainingViews(ABC):
    """Which view of its picture each training row gets.

    Attributes:
        count: how many views a row has; None: a fresh one each epoch.
    """

    count: int | None

    def turns(self, epochs: Integers) -> Integers:
        """int64 [B]: the number of each row's view; of `count` views in turn, or as many as there are epochs."""
        return epochs if self.count is None else epochs % self.count

    @abstractmethod
    def choose(self, number: int, rows: Integers, turns: Integers) -> ChooseView:
        """How to frame `rows` of source `number`, each in its turn.

        Raises:
            UserError: when asked about a row that has no view.
        """


class DrawnViews(TrainingViews):
    """Views by hash. View k of a row is the one it gets in epoch k; of a fixed number, the first is plain.

    A flip that is still `auto`, because no teacher was asked, mirrors.

    Args:
        sources: in the order of their numbers.
        size: height and width of the view.
        seed: of the recipe.
        count: how many views a row has; None: a fresh one each epoch.
    """

    def __init__(self, sources: Sequence[Source], size: Size, seed: int, count: int | None = None) -> None:
        self.count = count
        self._sources, self._size = sources, size
        self._keys = np.concatenate([fold(seed, "views", source.name) for source in sources])

    def choose(self, number: int, rows: Integers, turns: Integers) -> ChooseView:
        section, size = self._sources[number].section, self._size
        crop, flip = crop_for(section.augment, size), bool(section.augment.flip)
        if not (crop or flip):
            return lambda place, row, picture: plain_view(picture, size, section.resize)
        plain_turn = -1 if self.count is None else 0
        chance, asked, turn = self._chance(number, rows, turns).tolist(), rows.tolist(), turns.tolist()

        def choose(place: int, row: int, picture: Size) -> View:
            if turn[place] == plain_turn:
                return plain_view(picture, size, section.resize)
            mine = chance[place]
            if row != asked[place]:
                mine = self._chance(number, np.array([row]), turns[place : place + 1])[0].tolist()
            return training_view(picture, size, section.resize, crop, flip, mine)

        return choose

    def _chance(self, number: int, rows: Integers, turns: Integers) -> NDArray[np.float64]:
        return uniforms(fold(self._keys[number], turns, rows), DRAWS)


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
    brightness, contrast, saturation = color.to(images.dtype)[:, :, None, None].unbind(dim=1)
    luma = torch.tensor(_LUMA, device=images.device, dtype=images.dtype)
    # The three changes are blends (with black, with the mean grey, with the pixel's grey) and so linear: their
    # composition is a 3 x 3 matrix for each row and an addend, clamped once. One product needs no further images.
    scale, pixels = brightness * contrast, images.flatten(2)
    mixed = scale * (saturation * torch.eye(3, device=images.device, dtype=images.dtype))
    mixed = mixed + scale * (1 - saturation) * luma
    mean = (pixels.mean(2) @ luma)[:, None, None]
    changed = torch.baddbmm(mean * (brightness * (1 - contrast)), mixed, pixels)
    return changed.view_as(images).clamp_(0, 1)
