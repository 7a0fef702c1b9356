"""The quickstart's data: two overlapping handwritten digits on one canvas, in three sets of shards.

Like Sener & Koltun's MultiMNIST (NeurIPS 2018, section 5.1), from the 1,797 digits of scikit-learn
(Alpaydin & Kaynak, UCI "Optical Recognition of Handwritten Digits", its test set). A recipe names
the shards `multidigits:SET-SPLIT`; they are made on first use in the cache folder. The arithmetic is
in whole numbers and random numbers are from SplitMix64, so the pixels are the same on every machine.

Sets: `left` (upper-left digit, member cls), `right` (lower-right digit, cls) and `segment` (seg.png:
0 background, 1 left, 2 right, 3 both). Splits: `train`, `validation` and `test`, from different source
digits. Each validation or test canvas takes both digits from one pool of four, named by its member
`group`: canvases of different pools share no digit, so groups may be resampled as independent.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill_mtl.splitmix import draws, fold
from distill_mtl.splits import SPLITS, Split

VERSION = 1
SETS = ("left", "right", "segment")
ROWS: dict[Split, int] = {"train": 6000, "validation": 500, "test": 2000}
DIGITS: dict[Split, int] = {"train": 1097, "validation": 200, "test": 500}
SIDE = 32
POOL = 4

_SIZES = (20, 21, 22)  # pixels of a digit on the canvas
_JITTER = 4  # places of a digit along each axis
_STROKE = 128  # of 255: from here on a pixel of a digit is stroke, not its soft edge

Pixels = NDArray[np.uint8]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Canvases:
    """One split of one set, as pixels.

    Attributes:
        images: uint8 [N, 32, 32], grey.
        masks: uint8 [N, 32, 32]: 0 background, 1 left, 2 right, 3 both.
        digits: int64 [N, 2], source digits on the upper left and the lower right.
        labels: int64 [N, 2], their classes.
        pools: int64 [N], the pool of the source digits; every row -1 in training.
    """

    images: Pixels
    masks: Pixels
    digits: Integers
    labels: Integers
    pools: Integers


def compose(name: str, split: Split) -> Canvases:
    """One split of one set, the same on every machine."""
    rows = np.arange(ROWS[split])
    # A row's numbers 0 to 8 are for geometry and tone; from 10 on there is one for every eight pixels of noise.
    chance = draws(fold("multidigits", VERSION, name, split, rows), 10 + SIDE * SIDE // 8)
    digits, pools = _choose(split, rows, chance[:, :2])
    glyphs = {size: _enlarged(size) for size in _SIZES}
    ink, stroke = np.zeros((2, 2, len(rows), SIDE, SIDE), np.uint8)
    for side in (0, 1):
        size = np.array(_SIZES)[_below(len(_SIZES), chance[:, 2 + side])]
        jitter = _below(_JITTER, chance[:, 4 + side, None], np.array([0, 32]))
        corner = jitter if side == 0 else SIDE - size[:, None] - jitter
        strength = 130 + _below(126, chance[:, 6 + side])
        for row, (top, left) in enumerate(corner):
            glyph, end = glyphs[size[row]][digits[row, side]], size[row]
            ink[side, row, top : top + end, left : left + end] = glyph * strength[row] // 255
            stroke[side, row, top : top + end, left : left + end] = glyph >= _STROKE
    images = _on_paper(ink.max(axis=0).astype(np.int64), chance[:, 8], chance[:, 10:])
    masks = stroke[0] + 2 * stroke[1]
    return Canvases(images, masks, digits, _source()[1][digits], pools)


def samples(name: str, split: Split) -> Iterator[dict[str, str | bytes]]:
    """The rows of one split of one set, in order."""
    canvases = compose(name, split)
    for row, image in enumerate(canvases.images):
        sample: dict[str, str | bytes] = {"__key__": f"{name}-{split}-{row:05d}", "png": _png(image)}
        if name == "segment":
            sample["seg.png"] = _png(canvases.masks[row])
        else:
            sample["cls"] = b"%d" % canvases.labels[row, SETS.index(name)]
        if canvases.pools[row] >= 0:
            sample["group"] = f"{split}-pool-{canvases.pools[row]:03d}".encode()
        yield sample


@cache
def source_digits() -> dict[Split, Integers]:
    """The digits of scikit-learn that each split is made from; all splits have the same share of each class."""
    labels = _source()[1]
    order = np.argsort(draws(fold("multidigits", VERSION, "digits"), len(labels))[0], kind="stable")
    # Spread each class evenly over [0, 1): then any stretch of the line holds all classes in proportion.
    places = np.empty(len(labels))
    for label in np.unique(labels):
        members = order[labels[order] == label]
        places[members] = (np.arange(len(members)) + 0.5) / len(members)
    line = np.argsort(places, kind="stable")
    ends = np.cumsum([DIGITS[split] for split in SPLITS])
    return dict(zip(SPLITS, np.split(line, ends[:-1]), strict=True))


def _choose(split: Split, rows: Integers, chance: NDArray[np.uint64]) -> tuple[Integers, Integers]:
    """Source digits [N, 2] and pools [N] of a split's canvases."""
    digits = source_digits()[split]
    if split == "train":
        return digits[_below(len(digits), chance)], np.full(len(rows), -1)
    shuffled = digits[
        np.argsort(draws(fold("multidigits", VERSION, "pools", split), len(digits))[0], kind="stable")
    ]
    pools, turn = np.divmod(rows, len(rows) * POOL // len(digits))
    # Sixteen turns are all pairs of a pool, and any few in a row use its four digits evenly.
    pair = np.stack([turn % POOL, (turn + turn // POOL) % POOL], axis=1)
    return shuffled[pools[:, None] * POOL + pair], pools


def _on_paper(ink: Integers, tone: NDArray[np.uint64], grain: NDArray[np.uint64]) -> Pixels:
    """Ink [N, 32, 32] over grey paper of a tone per canvas, with grain on every pixel."""
    paper, amplitude = _below(80, tone)[:, None, None], 10 + _below(40, tone >> np.uint64(32))[:, None, None]
    noise = grain.astype("<u8").view(np.uint8).reshape(ink.shape).astype(np.int64) - 128
    return np.clip(paper + ink * (255 - paper) // 255 + noise * amplitude // 128, 0, 255).astype(np.uint8)


@cache
def _source() -> tuple[Pixels, Integers]:
    """Scikit-learn's digits: uint8 [1797, 8, 8] from 0 to 16, and their classes [1797]."""
    from sklearn.datasets import load_digits  # seconds to import, and only needed to make the shards

    digits = load_digits()
    return digits.images.astype(np.uint8), digits.target.astype(np.int64)


@cache
def _enlarged(size: int) -> Integers:
    """int64 [1797, size, size] in 0 to 255: bilinear, with whole-number weights of denominator 2 x size."""
    images = _source()[0].astype(np.int64)
    weights = np.zeros((size, 8), np.int64)
    for pixel in range(size):
        place = 8 * (2 * pixel + 1) - size  # of the pixel's centre among the digit's, in 1 / (2 x size)
        low, high_weight = divmod(place, 2 * size)
        weights[pixel, max(low, 0)] += 2 * size - high_weight
        weights[pixel, min(low + 1, 7)] += high_weight
    sums: Integers = weights @ images @ weights.T
    return sums * 255 // (16 * (2 * size) ** 2)


def _below(bound: int, chance: NDArray[np.uint64], shift: Integers | None = None) -> Integers:
    """Integers from 0 to `bound` - 1 out of random bits, after dropping `shift` of the lowest."""
    bits = chance if shift is None else chance >> shift.astype(np.uint64)
    return (bits % np.uint64(bound)).astype(np.int64)


def _png(pixels: Pixels) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG", compress_level=1)
    return encoded.getvalue()
