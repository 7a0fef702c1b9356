"""Segmentation: masks on disk, scores, masked pixels, the decoder."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_jaccard_index

from distill_mtl.errors import UserError
from distill_mtl.networks.features import FeatureShape
from distill_mtl.tasks.base import HeadShape
from distill_mtl.tasks.decoder import PyramidDecoder, pyramid_levels
from distill_mtl.tasks.segmentation import Segmentation

PARTS = ("ground", "left", "right", "both")


def png(pixels: np.ndarray, mode: str = "L", form: str = "PNG") -> bytes:
    if mode == "P":
        picture = Image.fromarray(pixels, "L").convert("P")
        picture.frombytes(pixels.tobytes())
        picture.putpalette([30, 60, 90] * 256)  # one colour for all: only the indexes tell classes apart
    else:
        picture = Image.fromarray(pixels)
    file = io.BytesIO()
    picture.save(file, form)
    return file.getvalue()


def one_hot_logits(classes: Tensor) -> Tensor:
    """Logits that decide for `classes` [R, H, W]."""
    return torch.nn.functional.one_hot(classes, len(PARTS)).movedim(-1, 1).float()


@pytest.mark.parametrize("mode", ["L", "P"])
def test_a_mask_survives_the_way_through_a_png(mode: str) -> None:
    pixels = np.array([[0, 1, 2], [3, 255, 0]], dtype=np.uint8)
    label = Segmentation(PARTS).read_label(png(pixels, mode))
    assert label.dtype == torch.int64
    assert torch.equal(label, torch.from_numpy(pixels).long())


def test_masks_of_one_and_of_sixteen_bits_are_read() -> None:
    assert Segmentation(PARTS).read_label(png(np.array([[True, False]]))).tolist() == [[1, 0]]
    wide = Segmentation(tuple(f"class{index}" for index in range(400)), ignore_index=65535)
    assert wide.read_label(png(np.array([[399, 65535]], dtype=np.uint16))).tolist() == [[399, 65535]]


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (
            png(np.array([[0, 9]], dtype=np.uint8)),
            "holds the value 9, which is neither a class number from 0 to 3",
        ),
        (png(np.zeros((2, 2, 3), dtype=np.uint8)), "is a colour picture"),
        (png(np.zeros((8, 8), dtype=np.uint8), form="JPEG"), "not a PNG"),
        (png(np.zeros((64, 64), dtype=np.uint8))[:50], "not a PNG"),
        (b"", "not a PNG"),
    ],
)
def test_a_mask_that_makes_no_sense_is_refused_in_words(payload: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Segmentation(PARTS).read_label(payload)


def test_a_mask_without_any_valid_pixel_is_no_label() -> None:
    kind = Segmentation(PARTS)
    assert not kind.has_label(torch.full((4, 4), 255))
    assert kind.has_label(torch.tensor([[255, 2]]))


def test_masked_pixels_change_nothing() -> None:
    kind = Segmentation(PARTS)
    labels = torch.randint(4, (2, 6, 6))
    labels[:, :, 3:] = 255
    logits = torch.randn(2, 4, 6, 6)
    other = logits.clone()
    other[:, :, :, 3:] = torch.randn(2, 4, 6, 3)
    assert torch.equal(kind.supervised_loss(logits, labels), kind.supervised_loss(other, labels))
    assert torch.equal(kind.statistics(logits, labels), kind.statistics(other, labels))
    cut = kind.supervised_loss(logits[:, :, :, :3], labels[:, :, :3])
    torch.testing.assert_close(kind.supervised_loss(logits, labels), cut)


def test_a_row_without_valid_pixels_costs_nothing_and_stays_finite() -> None:
    kind = Segmentation(PARTS)
    logits = torch.randn(2, 4, 4, 4, requires_grad=True)
    labels = torch.stack([torch.zeros(4, 4, dtype=torch.long), torch.full((4, 4), 255)])
    losses = kind.supervised_loss(logits, labels)
    losses.sum().backward()
    assert losses[1] == 0
    assert logits.grad is not None
    assert logits.grad[1].abs().max() == 0
    assert logits.grad[0].abs().max() > 0
    assert kind.statistics(logits.detach(), labels)[1].sum() == 0


def test_soft_targets_do_not_grow_with_the_picture() -> None:
    kind = Segmentation(PARTS)
    logits, teacher = torch.randn(2, 1, 4, 1, 1)
    small = kind.soft_target_loss(logits, teacher, 2.0)
    large = kind.soft_target_loss(logits.expand(1, 4, 16, 16), teacher.expand(1, 4, 16, 16), 2.0)
    torch.testing.assert_close(small, large)


def test_miou_by_hand() -> None:
    labels = torch.tensor([[[0, 0, 0, 1]]])
    predicted = torch.tensor([[[0, 0, 1, 1]]])
    kind = Segmentation(PARTS)
    score = kind.score(kind.statistics(one_hot_logits(predicted), labels))
    assert score.item() == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)  # classes 2 and 3 occur nowhere


@pytest.mark.parametrize("known", [4, 3, 2])
def test_scores_are_those_of_torchmetrics_with_absent_classes_too(known: int) -> None:
    generator = torch.Generator().manual_seed(known)
    predicted = torch.randint(known, (5, 8, 8), generator=generator)
    labels = torch.randint(known - 1, (5, 8, 8), generator=generator)
    labels[0, :3] = 255
    miou, accuracy = Segmentation(PARTS), Segmentation(PARTS, "pixel_accuracy")
    totals = miou.statistics(one_hot_logits(predicted), labels)
    jaccard = multiclass_jaccard_index(predicted, labels, num_classes=4, average="macro", ignore_index=255)
    assert miou.score(totals).item() == pytest.approx(100 * jaccard.item(), rel=1e-6)
    micro = multiclass_accuracy(predicted, labels, num_classes=4, average="micro", ignore_index=255)
    assert accuracy.score(totals).item() == pytest.approx(100 * micro.item(), rel=1e-6)


def test_small_logits_are_judged_and_decoded_at_full_size() -> None:
    kind = Segmentation(PARTS)
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[:, :, 4:] = 2
    logits = one_hot_logits(labels[:, ::4, ::4])
    assert kind.statistics(logits, labels)[0, 4:8].tolist() == [32, 0, 32, 0]
    assert kind.score(kind.statistics(logits, labels)) == 100
    assert torch.equal(kind.decode(logits, (8, 8))["label"], labels)


def test_the_decoder_reads_the_deepest_stage_of_every_size_finest_first() -> None:
    shapes = {
        "a": FeatureShape(8, (16, 16), pyramid=True),
        "b": FeatureShape(8, (8, 8), pyramid=True),
        "c": FeatureShape(16, (8, 8), pyramid=True),
        "hint": FeatureShape(99, (32, 32)),
        "pooled": FeatureShape(16, None),
    }
    assert pyramid_levels(shapes) == ("a", "c")
    decoder = PyramidDecoder(shapes, channels=4, shape=HeadShape(width=6))
    features = {"a": torch.randn(2, 8, 15, 17), "c": torch.randn(2, 16, 8, 9)}
    assert decoder(features).shape == (2, 4, 15, 17)


def test_a_transformer_is_a_pyramid_of_one_level() -> None:
    shapes = {f"blocks.{index}": FeatureShape(12, (4, 4), pyramid=True) for index in range(6)}
    kind = Segmentation(PARTS, head=HeadShape(width=8))
    assert kind.needs(shapes) == ("blocks.5",)
    head = kind.head(shapes)
    logits = head({"blocks.5": torch.randn(2, 12, 4, 4)})
    logits.sum().backward()
    assert logits.shape == (2, 4, 4, 4)
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_a_trunk_without_maps_is_refused() -> None:
    with pytest.raises(UserError, match="no inner maps"):
        Segmentation(PARTS).needs({"pooled": FeatureShape(8, None)})


def test_the_decoder_stays_light() -> None:
    """The quickstart's pyramid at 32 px: the head must not outweigh the trunk it stands on."""
    stages = ((32, 16), (32, 8), (48, 4), (192, 2), (96, 1))
    shapes = {str(side): FeatureShape(width, (side, side), pyramid=True) for width, side in stages}
    head = Segmentation(PARTS).head(shapes)
    assert sum(parameter.numel() for parameter in head.parameters()) < 25_000
