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
from distill_mtl.students.student import FAMILIES
from distill_mtl.tasks.base import HeadShape
from distill_mtl.tasks.heads import PyramidDecoder, pyramid_levels
from distill_mtl.tasks.segmentation import Segmentation, soft_dice_loss

SMALL = {
    "swin_tiny_patch4_window7_224": {"embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
}
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
            "value 9.*0 to 3",
        ),
        (png(np.zeros((2, 2, 3), dtype=np.uint8)), "mode RGB"),
        (png(np.zeros((8, 8), dtype=np.uint8), form="JPEG"), "not a PNG"),
        (png(np.zeros((64, 64), dtype=np.uint8))[:50], "PNG picture that cannot be read"),
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


def test_a_transformer_is_a_pyramid_of_one_level_which_is_enlarged() -> None:
    shapes = {f"blocks.{index}": FeatureShape(12, (4, 4), pyramid=True) for index in range(6)}
    kind = Segmentation(PARTS, head=HeadShape(width=8))
    assert kind.needs(shapes) == ("blocks.5",)
    head = kind.head(shapes)
    logits = head({"blocks.5": torch.randn(2, 12, 4, 4)})
    logits.sum().backward()
    assert logits.shape == (2, 4, 16, 16)
    assert all(parameter.grad is not None for parameter in head.parameters())


@pytest.mark.parametrize(
    ("model", "side"),
    [
        ("test_vit", 16),
        ("swin_tiny_patch4_window7_224", 16),
        ("test_convnext", 16),
        ("test_resnet", 32),
        ("test_efficientnet", 32),
    ],
)
def test_trunks_of_every_family_give_maps_of_a_useful_size(model: str, side: int) -> None:
    """One plain transformer, one that keeps channels last, and convolutions with and without a stem's map."""
    trunk = FAMILIES["timm"].create(model, SMALL.get(model, {}), (64, 64), pretrained=False)
    kind = Segmentation(PARTS)
    head = kind.head(trunk.shapes)
    trunk.tap(kind.needs(trunk.shapes))
    logits = head(trunk(torch.rand(2, 3, 64, 64)))
    logits.sum().backward()
    assert logits.shape == (2, 4, side, side)
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_a_trunk_without_maps_is_refused() -> None:
    with pytest.raises(UserError, match="pooled and no maps"):
        Segmentation(PARTS).needs({"pooled": FeatureShape(8, None)})


def test_the_decoder_stays_light() -> None:
    """The quickstart's pyramid at 32 px: the head must not outweigh the trunk it stands on."""
    stages = ((32, 16), (32, 8), (48, 4), (192, 2), (96, 1))
    shapes = {str(side): FeatureShape(width, (side, side), pyramid=True) for width, side in stages}
    head = Segmentation(PARTS).head(shapes)
    assert sum(parameter.numel() for parameter in head.parameters()) < 25_000


def test_soft_dice_by_hand() -> None:
    """Two pixels of class 0 and one of class 1 at p = 3/4 each for their own class, of two classes in all."""
    right = torch.tensor(3.0).log()
    labels = torch.tensor([[[0, 0, 1, 255]]])
    logits = torch.zeros(1, 4, 1, 4)
    logits[0, 2:] = -1e4
    for column, label in enumerate((0, 0, 1)):
        logits[0, label, 0, column] = right
    square = {True: (3 / 4) ** 2, False: (1 / 4) ** 2}
    zero = 2 * (2 * 3 / 4) / (2 * square[True] + square[False] + 2)
    one = 2 * (3 / 4) / (square[True] + 2 * square[False] + 1)
    got = soft_dice_loss(logits, labels, labels != 255)
    torch.testing.assert_close(got, torch.tensor([1 - (zero + one) / 2]))


def test_dice_is_added_with_its_weight_and_masked_pixels_change_nothing() -> None:
    plain, heavy = Segmentation(PARTS), Segmentation(PARTS, dice=2.0)
    labels = torch.randint(3, (3, 6, 6))
    labels[:, :, 3:] = 255
    labels[2] = 255
    logits = torch.randn(3, 4, 6, 6, requires_grad=True)
    dice = soft_dice_loss(logits, labels, labels != 255)
    torch.testing.assert_close(
        heavy.supervised_loss(logits, labels), plain.supervised_loss(logits, labels) + 2 * dice
    )
    assert dice[2] == 0
    other = torch.where(labels[:, None] == 255, 7.0, logits)
    assert torch.equal(heavy.supervised_loss(logits, labels), heavy.supervised_loss(other, labels))
    heavy.supervised_loss(logits, labels).sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[:, :, :, 3:].abs().max() == 0


def test_dice_is_at_its_floor_for_a_perfect_row_whatever_classes_it_lacks() -> None:
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    labels[:, 0] = 3
    perfect = 1e4 * one_hot_logits(labels)
    assert soft_dice_loss(perfect, labels, labels != 255).item() == pytest.approx(0, abs=1e-6)
    assert soft_dice_loss(-perfect, labels, labels != 255).item() > 0.9
    with pytest.raises(UserError, match=r"options\.dice.*found -1"):
        Segmentation(PARTS, dice=-1)


def test_dice_does_not_depend_on_how_rows_are_split() -> None:
    kind = Segmentation(PARTS, dice=1.0)
    logits, labels = torch.randn(5, 4, 6, 6), torch.randint(4, (5, 6, 6))
    parts = torch.cat([kind.supervised_loss(logits[rows], labels[rows]) for rows in ([0, 1], [2], [3, 4])])
    torch.testing.assert_close(parts, kind.supervised_loss(logits, labels))


def test_the_legend_of_a_picture_is_that_of_all_pictures_as_far_as_its_classes_are_there() -> None:
    kind = Segmentation(PARTS)
    logits = torch.zeros(4, 2, 2)
    logits[0, 0], logits[2, 1] = 5, 5
    shown = kind.show_answer(logits, torch.zeros(3, 2, 2, dtype=torch.uint8))
    known = kind.legend().colors
    assert shown.legend.colors == {"ground": known["ground"], "right": known["right"]}
    assert tuple(shown.picture[:, 1, 0].tolist()) == known["right"]
