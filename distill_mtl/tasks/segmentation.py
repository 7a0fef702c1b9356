"""One class per pixel. Labels are PNG pictures of class numbers (`seg.png`), grey or with a palette.

Soft Dice: a loss of segmentation that counts every class alike, however few its pixels are.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from distill_mtl.errors import UserError
from distill_mtl.geometry.views import Size, View
from distill_mtl.networks.features import FeatureShape
from distill_mtl.tasks.base import DEFAULT_HEAD, KINDS, HeadShape, Legend, Shown, Truth
from distill_mtl.tasks.classification import SoftmaxKind
from distill_mtl.tasks.doubts import Doubt, class_doubts
from distill_mtl.tasks.drawing import GREY, named_colors, paint_classes
from distill_mtl.tasks.heads import PyramidDecoder, pyramid_levels
from distill_mtl.tasks.json_values import plain_values
from distill_mtl.tasks.label import CountsTable, LabelCounts, percent
from distill_mtl.tasks.losses import soft_divergence
from distill_mtl.tasks.maps import map_size, paste_view, read_png, resized, write_png
from distill_mtl.tasks.metrics import confidence_counts
from distill_mtl.tasks.options import number, whole_number

# PIL's names of the pictures whose pixels are one number: grey, palette index, black and white, 16 bits.
_NUMBER_MODES = ("L", "P", "1", "I", "I;16", "I;16B")
_LAST_OF_BYTE = 255
_FROM_ONE = " If the masks number the classes from 1, write `options: {first_number: 1}`."


@KINDS.register("segmentation")
class Segmentation(SoftmaxKind):
    """Softmax over the classes at every pixel; logits [R, C, h, w], labels int64 [R, H, W].

    Logits may be smaller or larger than the labels: they are resized (bilinear) to the labels' size
    for the supervised loss and the scores. Pixels that hold `ignore_index` count nowhere.

    Metrics, over all pixels of all rows together: `miou`, the mean intersection over union of the classes
    that occur in labels or predictions (torchmetrics' macro Jaccard index), and `pixel_accuracy`.

    Args:
        ignore_index: value of a pixel without a label.
        dice: weight of the soft Dice loss that is added to the cross-entropy, for classes of few pixels.
        mirrored: pairs of names of classes that change places when the picture is mirrored.
        background: the class that stands for none of the others; by default the one of this name, if there is one.
        first_number: of the classes in the masks; 1 where they are counted from 1. Smaller numbers have no label.

    Raises:
        UserError: classes are not numbered from 0, and `ignore_index` is not above the last number.
    """

    name = "segmentation"
    member = "seg.png"
    metrics = ("miou", "pixel_accuracy")
    dense = True
    from_table = "file"
    asked_as = "file"
    label_options = ("ignore_index", "first_number")
    open_classes = 2**16
    silent_label = "all their pixels are ignored"

    def __init__(
        self,
        classes: tuple[str, ...],
        metric: str | None = None,
        *,
        head: HeadShape = DEFAULT_HEAD,
        ignore_index: int = 255,
        dice: float = 0.0,
        mirrored: Sequence[Sequence[str]] = (),
        background: str | None = None,
        first_number: int = 0,
    ) -> None:
        super().__init__(classes, metric, head=head, mirrored=mirrored, background=background)
        self.ignore_index = whole_number("ignore_index", ignore_index, least=0)
        self.first_number = whole_number("first_number", first_number, least=0)
        last = self.first_number + len(classes) - 1
        if self.first_number and self.ignore_index <= last and len(classes) < self.open_classes:
            raise UserError(
                f"ignore_index {self.ignore_index} is not above the last class number, {last}. Numbers below "
                f"first_number {self.first_number} have no label as it is: leave ignore_index out, or choose a "
                "larger one."
            )
        self.dice = number("dice", dice)

    def read_label(self, payload: bytes) -> Tensor:
        pixels, first = _mask_pixels(payload), self.first_number
        last = first + len(self.classes) - 1
        strange = pixels[(pixels > last) & (pixels != self.ignore_index)]
        if strange.size:
            from_one = _FROM_ONE if strange.max() == last + 1 and not first else ""
            raise ValueError(
                f"the mask holds the value {strange[0]}, which is neither a class number from {first} to {last} nor "
                f"ignore_index ({self.ignore_index}).{from_one}"
            )
        if first:
            silent = (pixels < first) | (pixels == self.ignore_index)
            pixels = np.where(silent, self.ignore_index, pixels - first)
        return torch.from_numpy(pixels)

    def has_label(self, label: Tensor) -> bool:
        return bool((label != self.ignore_index).any())

    def filler(self, size: Size) -> Tensor:
        return torch.full(size, self.ignore_index)

    def label_size(self, label: Tensor) -> Size:
        return map_size(label)

    def count_label(self, label: Tensor, picture: Size, counts: LabelCounts) -> None:
        pixels = label.flatten().bincount()  # many times faster than `unique`, which sorts
        found = {str(number): int(pixels[number]) for number in pixels.nonzero().flatten().tolist()}
        counts.count("pixels", found)
        counts.count("rows", dict.fromkeys(found, 1))

    def counts_table(self, counts: LabelCounts) -> CountsTable:
        pixels, rows = counts.counts["pixels"], counts.counts["rows"]
        lines = [
            (
                f"{name} (ignored)" if int(name) == self.ignore_index else str(int(name) + self.first_number),
                percent(pixels[name], pixels.total()),
                f"{rows[name]:,}",
            )
            for name in sorted(pixels, key=int)
        ]
        return CountsTable(("class number", "pixels", "rows with it"), lines)

    def doubts(self, counts: LabelCounts) -> list[Doubt]:
        found = [number for number in counts.counts.get("pixels", ()) if int(number) != self.ignore_index]
        number = self.classes_counted(counts)
        if number - 1 > _LAST_OF_BYTE:
            return [
                Doubt(
                    f"the masks hold {len(found):,} numbers up to {number - 1:,}. Are they depth maps, or ids of "
                    "objects? Class numbers are expected; depth maps need the member depth.png."
                )
            ]
        ignored = counts.counts.get("pixels", Counter())[str(self.ignore_index)]
        if len(found) == 1 and ignored and self.ignore_index == _LAST_OF_BYTE:
            return [
                Doubt(
                    f"the masks hold {found[0]} and 255 and nothing else, and 255 is ignore_index: one class is left, "
                    f"and {percent(ignored, counts.counts['pixels'].total())} of the pixels are ignored. If 255 is a "
                    "class, write 1 for it in the masks."
                )
            ]
        # Of masks whose classes nobody has said yet, those up to the largest number.
        classes = self.classes[:number] if len(self.classes) == self.open_classes else self.classes
        from_one = f"write `options: {{first_number: 1}}` and {len(classes) - 1} classes in the recipe"
        return super().doubts(counts) + class_doubts(
            classes, [self.classes[int(one)] for one in found], "pixel", from_one=from_one
        )

    def classes_counted(self, counts: LabelCounts) -> int:
        numbers = map(int, counts.counts["pixels"])
        return 1 + max((number for number in numbers if number != self.ignore_index), default=0)

    def transform_label(self, label: Tensor, view: View, picture: Size, size: Size) -> Tensor:
        return self._in_mirror(view.map(label, size, self.ignore_index), view)

    def needs(self, features: Mapping[str, FeatureShape]) -> tuple[str, ...]:
        return pyramid_levels(features)

    def head(self, features: Mapping[str, FeatureShape]) -> nn.Module:
        return PyramidDecoder(features, len(self.classes), self.shape)

    def supervised_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean over the valid pixels of each row; 0 for a row that a crop left without any."""
        logits = resized(logits.float(), map_size(labels))
        classes = labels.masked_fill(labels < 0, self.ignore_index) if self.knows else labels
        losses = F.cross_entropy(logits, classes, reduction="none", ignore_index=self.ignore_index)
        losses = self._cross_entropy(logits, labels, losses)
        valid = labels != self.ignore_index
        entropy = losses.sum(dim=(1, 2)) / valid.sum(dim=(1, 2)).clamp(min=1)
        return entropy + self.dice * soft_dice_loss(logits, labels, valid) if self.dice else entropy

    def soft_target_loss(
        self, logits: Tensor, teacher_logits: Tensor, temperature: float, truth: Truth | None = None
    ) -> Tensor:
        """Mean over all pixels, at the size of the student's logits."""
        teacher_logits = resized(teacher_logits.float(), map_size(logits))
        divergence = soft_divergence(logits, teacher_logits, temperature).mean(dim=(1, 2))
        # Rounding must not push a divergence below its floor: balancing may take its logarithm.
        return divergence.clamp(min=0)

    def decode(self, logits: Tensor, size: Size) -> dict[str, Tensor]:
        """`label` int64 [B, H, W] at the image's size."""
        return {"label": resized(logits.float(), size).argmax(dim=1)}

    def to_picture(self, decoded: Mapping[str, Tensor], view: View, picture: Size) -> dict[str, Tensor]:
        """Pixels beyond the view are without a label."""
        return {"label": paste_view(decoded["label"], view, picture, self.ignore_index)}

    def answers(self, decoded: Mapping[str, Tensor], top: int = 1) -> dict[str, Any]:
        """`pixels`: the classes that are there with their shares of the pixels, the largest first."""
        labelled = decoded["label"][decoded["label"] != self.ignore_index]
        shares = torch.bincount(labelled, minlength=len(self.classes)) / max(1, labelled.numel())
        there = [
            place for place in shares.argsort(descending=True, stable=True).tolist() if shares[place] > 0
        ]
        return {"pixels": {self.classes[place]: plain_values(shares[place]) for place in there}}

    def write_label(self, decoded: Mapping[str, Tensor]) -> tuple[str, bytes]:
        """A grey PNG of class numbers, of 16 bits where 8 do not hold them."""
        pixels = decoded["label"].numpy()
        if self.first_number:
            pixels = np.where(pixels == self.ignore_index, pixels, pixels + self.first_number)
        largest = int(pixels.max())
        if largest >= 2**16:
            raise UserError(
                f"a mask cannot hold the number {largest}: a PNG has at most 16 bits. Choose a smaller `ignore_index`."
            )
        return self.member, write_png(pixels.astype(np.uint8 if largest < 2**8 else np.uint16))

    def show_label(self, label: Tensor, image: Tensor) -> Shown:
        return Shown(paint_classes(self._grounded(label), self.ignore_index))

    def show_answer(self, logits: Tensor, image: Tensor) -> Shown:
        classes = resized(logits[None].float(), map_size(image)).argmax(1)[0]
        known = named_colors(self.classes)
        there = [self.classes[place] for place in classes.unique().tolist() if place != self.ignore_index]
        legend = Legend({name: known[name] for name in there})
        return Shown(paint_classes(classes, self.ignore_index), legend=legend)

    def legend(self) -> Legend:
        return Legend({**named_colors(self.classes), "not labelled": GREY})

    def statistics(self, logits: Tensor, labels: Tensor) -> Tensor:
        """[right pixels by class, labelled pixels by class, predicted pixels by class], K = 3 C."""
        predicted = resized(logits.float(), map_size(labels)).argmax(dim=1)
        labels = self._as_answered(labels, predicted) if self.knows else labels
        valid = labels != self.ignore_index
        right = valid & (predicted == labels)
        counts = [
            self._count(classes, where)
            for classes, where in ((labels, right), (labels, valid), (predicted, valid))
        ]
        return torch.cat(counts, dim=1).cpu().double()

    def score_totals(self, totals: Tensor) -> Tensor:
        right, labelled, predicted = totals.chunk(3, dim=-1)
        if self.metric == "pixel_accuracy":
            return 100 * right.sum(dim=-1) / labelled.sum(dim=-1).clamp(min=1)
        union = labelled + predicted - right
        present = (union > 0).sum(dim=-1)
        return 100 * (right / union.clamp(min=1)).sum(dim=-1) / present.clamp(min=1)

    def class_scores(self, statistics: Tensor) -> Tensor:
        """miou: of each class, over all rows; pixel_accuracy: of each class's pixels the share that is right."""
        right, labelled, predicted = statistics.sum(0).chunk(3)
        of = labelled if self.metric == "pixel_accuracy" else labelled + predicted - right
        return (100 * right / of).where(labelled > 0, torch.nan)

    def calibration(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Of pixels."""
        probability, predicted = resized(logits.float(), map_size(labels)).softmax(1).max(1)
        valid = (labels != self.ignore_index) & (labels >= 0)
        return confidence_counts(probability[valid], (predicted == labels)[valid])

    def agreement(self, logits: Tensor, other: Tensor) -> Tensor:
        """Share of pixels, at the larger of the two sizes."""
        size = max(map_size(logits), map_size(other))
        mine, theirs = (resized(maps.float(), size).argmax(dim=1) for maps in (logits, other))
        return (mine == theirs).flatten(1).float().mean(dim=1).cpu().double()

    def label_counts(self, labels: Tensor) -> Tensor:
        return self._count(self._grounded(labels), labels != self.ignore_index).sum(dim=0).cpu().double()

    def constant_score(self, counts: Tensor) -> float:
        """Every pixel the commonest class: its share, or that share over the classes that occur."""
        share = 100 * float(counts.max() / counts.sum().clamp(min=1))
        return share if self.metric == "pixel_accuracy" else share / max(1, int((counts > 0).sum()))

    def describe(self) -> dict[str, object]:
        said: dict[str, object] = {"ignore_index": self.ignore_index}
        if self.dice:
            said["dice"] = self.dice
        if self.first_number:
            said["first_number"] = self.first_number
        return super().describe() | said

    @property
    def _silent(self) -> int:
        return self.ignore_index

    def _count(self, classes: Tensor, where: Tensor) -> Tensor:
        """int64 [R, C]: how often each class stands in `classes` [R, H, W] where `where` holds."""
        rows, number = len(classes), len(self.classes)
        offset = torch.arange(rows, device=classes.device).mul(number).view(rows, 1, 1)
        flat = torch.bincount((classes + offset)[where], minlength=rows * number)
        return flat.view(rows, number)


def soft_dice_loss(logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """1 - D of Milletari, Navab & Ahmadi (2016, arXiv:1606.04797, section 3), mean over classes, per row.

    D = 2 Σ p g / (Σ p² + Σ g²) over the row's valid pixels, of a class's probability p and of the label g
    in {0, 1}. Classes that are absent from the row's label do not count: their D is 0 whatever p is, a
    constant without a gradient.

    Args:
        logits: [R, C, H, W].
        labels: int64 [R, H, W], anything where they are not valid; negative where none of the classes that the label
            tells of is there.
        valid: bool [R, H, W].

    Returns:
        float32 [R]: 0 for a perfect row and for one without a valid pixel, at most 1.
    """
    probabilities = logits.float().softmax(1) * valid[:, None]
    said = valid & (labels >= 0)
    truth = F.one_hot(labels.where(said, 0), logits.shape[1]).movedim(-1, 1) * said[:, None]
    pixels = truth.flatten(2).sum(-1)
    overlap = (probabilities * truth).flatten(2).sum(-1)
    dice = 2 * overlap / (probabilities.square().flatten(2).sum(-1) + pixels).clamp(min=1)
    present = pixels > 0
    return ((1 - dice) * present).sum(1) / present.sum(1).clamp(min=1)


def _mask_pixels(payload: bytes) -> NDArray[np.int64]:
    """int64 [H, W]: the class numbers of a mask, whichever they are.

    Raises:
        ValueError: it is not a PNG, or it is a colour picture.
    """
    mode, pixels = read_png(payload, "the mask")
    if mode not in _NUMBER_MODES:
        raise ValueError(
            f"the mask is a colour picture (mode {mode}). It must hold class numbers, grey or with a palette."
        )
    return pixels.astype(np.int64)
