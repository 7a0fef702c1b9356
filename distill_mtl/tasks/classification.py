"""One class per image. Labels are class numbers or class names as text (`cls`).

`SoftmaxKind` is what it shares with segmentation, which decides between classes at every pixel.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_mtl.errors import UserError, nearest
from distill_mtl.geometry.views import Size, View
from distill_mtl.networks.features import FeatureShape
from distill_mtl.tasks.base import (
    DEFAULT_HEAD,
    KINDS,
    AdditiveKind,
    HeadShape,
    Shown,
    Truth,
    by_row,
    named_classes,
)
from distill_mtl.tasks.doubts import Doubt, class_doubts
from distill_mtl.tasks.heads import PooledHead
from distill_mtl.tasks.json_values import likeliest_classes, plain_values
from distill_mtl.tasks.label import MOST_CLASSES, CountsTable, LabelCounts, by_count, class_text, list_classes
from distill_mtl.tasks.losses import (
    Decoupled,
    any_of,
    average_softmax,
    log_probabilities,
    soft_divergence,
    sums_to_one,
)
from distill_mtl.tasks.metrics import CLASS_SCORES, TopShare, confidence_counts
from distill_mtl.tasks.options import mirror_partners, number, read_mirrored, swap_classes, whole_number

BACKGROUND = "background"
"""The class that stands for none of the others, where an option names no other."""
_MOST_DIGITS = 18
_FROM_ONE = " If the labels number the classes from 1, write `options: {first_number: 1}`."


class SoftmaxKind(AdditiveKind):
    """What such kinds share: how a teacher's probabilities are read, classes that a mirror swaps, and a background.

    The background is the class that stands for none of the others: the option `background` names it, else it is the
    class of the name `background`, if there is one. Of a network or a data set that knows some classes only, it means
    "none of those". So a label of it is no class but a set of them: the background, and all classes that the data set
    does not know. In tensors of labels such a set is a negative number, -1 - its place in `_sets`.

    Attributes:
        background: its position; None: there is none.
    """

    exclusive = True
    partial = True
    by_class = True
    fewest_classes = 2

    def __init__(
        self,
        classes: tuple[str, ...],
        metric: str | None,
        *,
        head: HeadShape,
        mirrored: Sequence[Sequence[str]],
        background: str | None,
    ) -> None:
        super().__init__(classes, metric, head=head)
        self.mirrored = read_mirrored(mirrored, classes)
        self._partners = mirror_partners(self.mirrored, classes)
        if background is not None and background not in classes:
            raise UserError(
                f"options.background: there is no class '{background}'.{nearest(background, classes)}"
            )
        self._named_background = background
        name = background or BACKGROUND
        self.background = classes.index(name) if name in classes else None

    @classmethod
    def are_probabilities(cls, answer: Tensor) -> bool:
        """Shares of a whole, or one number in [0, 1]: the probability of the second of two classes."""
        if answer.shape[1] == 1:
            return bool(((answer >= 0) & (answer <= 1)).all())
        return sums_to_one(answer)

    @classmethod
    def logits_of(cls, probabilities: Tensor) -> Tensor:
        if probabilities.shape[1] == 1:
            probabilities = torch.cat([1 - probabilities, probabilities], 1)
        return log_probabilities(probabilities)

    def within(self, label: Tensor, known: Sequence[int]) -> Tensor:
        if len(known) == len(self.classes):
            return label
        foreign = label.new_tensor([place for place in range(len(self.classes)) if place not in set(known)])
        strange = label[torch.isin(label, foreign) & (label != self._silent)]
        if strange.numel():
            raise ValueError(
                f"the label shows '{self.classes[int(strange.flatten()[0])]}', and `knows` of its data set does not "
                "list it. Add it there."
            )
        if self.background is None or self.background not in known:
            return label
        return label.masked_fill(label.eq(self.background), -1 - self._sets.index(tuple(known)))

    def leaves_open(self, label: Tensor) -> bool:
        return bool((label < 0).any())

    def labels_of_classes(self, labels: Tensor, known: Sequence[int]) -> tuple[Tensor, Tensor]:
        """A class that is not among `known` is their background, if they have one, else no label: `_silent`. So is a
        set of classes that leaves none of them possible but the background."""
        ground = self._silent
        if self.background is not None and self.background in known:
            ground = list(known).index(self.background)
        table = [list(known).index(place) if place in known else ground for place in range(len(self.classes))]
        rest = [set(known) - {self.background} - set(each) for each in self._sets]
        # Negative numbers count from the end.
        table += [self._silent if left else ground for left in reversed(rest)]
        ignored = (labels >= len(self.classes)) | (labels < -len(rest)) | (labels == self._silent)
        found = labels.new_tensor(table)[labels.masked_fill(ignored, 0)].masked_fill(ignored, self._silent)
        return found, (found != self._silent).flatten(1).any(1) if found.ndim > 1 else found != self._silent

    def average(self, answers: Sequence[Tensor], shares: Tensor, temperature: float) -> Tensor:
        return average_softmax(self.alike(answers), by_row(shares, answers[0].ndim), temperature)

    def sureness(self, logits: Tensor) -> Tensor:
        """Minus the entropy of the softmax at temperature 1, of maps the mean over their pixels."""
        entropy = torch.special.entr(logits.float().softmax(1)).sum(1)
        return -(entropy if entropy.ndim == 1 else entropy.flatten(1).mean(1))

    def describe(self) -> dict[str, object]:
        said: dict[str, object] = (
            {"mirrored": [list(pair) for pair in self.mirrored]} if self.mirrored else {}
        )
        if self._named_background is not None:
            said["background"] = self._named_background
        return super().describe() | said

    @property
    def _sets(self) -> list[tuple[int, ...]]:
        """What the data sets know that do not know all classes, each once."""
        return list(dict.fromkeys(self.knows.values()))

    @property
    def _silent(self) -> int:
        """In a label: nothing is said. No other label has this number."""
        return torch.iinfo(torch.int64).min

    def _cross_entropy(self, logits: Tensor, labels: Tensor, losses: Tensor) -> Tensor:
        """The cross-entropies [R, ...] of labels that are classes, with those of labels that are sets of classes.

        A set Y costs -log of the sum of q(c) over c in Y, with the student's softmax q: the likelihood of what the
        label says (Jin & Ghahramani 2002, "Learning with Multiple Labels"; for a background that is other data sets'
        foreground Cermelli et al. 2020, arXiv:2002.00718, section 3.2). It is 0 where the student rules out what the
        data set knows, whatever it says of the rest.
        """
        for place, known in enumerate(self._sets):
            ruled_out = {*known} - {self.background}
            possible = [one for one in range(len(self.classes)) if one not in ruled_out]
            losses = torch.where(labels == -1 - place, -any_of(logits, possible), losses)
        return losses

    def _as_answered(self, labels: Tensor, predicted: Tensor) -> Tensor:
        """Labels that are classes, for scores. One that is a set is the answer, if that is in it, else the background:
        an answer that a label does not contradict is not counted as wrong."""
        for place, known in enumerate(self._sets):
            ruled_out = predicted.new_tensor([one for one in known if one != self.background])
            answered = predicted.masked_fill(torch.isin(predicted, ruled_out), self.background or 0)
            labels = torch.where(labels == -1 - place, answered, labels)
        return labels

    def _grounded(self, labels: Tensor) -> Tensor:
        """Labels that are sets of classes as the background."""
        return labels.masked_fill(labels < 0, self.background or 0)

    def _in_mirror(self, label: Tensor, view: View) -> Tensor:
        """Class numbers as they are where the view is mirrored."""
        return swap_classes(label, self._partners) if view.flip and self.mirrored else label


@KINDS.register("classification")
class Classification(SoftmaxKind):
    """Softmax over the classes; logits [R, C], labels int64 [R].

    Metrics, as `class_scores` defines them: `accuracy`, `balanced_accuracy`, `macro_f1`, `top5`, and `ece`, the
    calibration error; lower is better.

    Args:
        label_smoothing: share of the supervised target spread over all classes. 0 by default: soft
            targets already smooth, and smoothing erases what they say about similar classes
            (Müller, Kornblith & Hinton 2019, arXiv:1906.02629).
        dkd: weights of the decoupled soft-target loss (`Decoupled`) in place of the plain divergence. The
            class that it sets apart is the row's label; without one (or where a teacher knows only some of
            the classes) the class that the teacher finds likeliest.
        mirrored: pairs of names of classes that change places when the picture is mirrored.
        background: the class that stands for none of the others; by default the one of this name, if there is one.
        first_number: of the classes in labels that are numbers; 1 where they are counted from 1.
    """

    name = "classification"
    member = "cls"
    open_classes = MOST_CLASSES
    asked_as = "choice"
    metrics = tuple(CLASS_SCORES)
    lower_is_better = frozenset({"ece"})

    def __init__(
        self,
        classes: tuple[str, ...],
        metric: str | None = None,
        *,
        head: HeadShape = DEFAULT_HEAD,
        label_smoothing: float = 0.0,
        dkd: Mapping[str, Any] | None = None,
        mirrored: Sequence[Sequence[str]] = (),
        background: str | None = None,
        first_number: int = 0,
    ) -> None:
        super().__init__(classes, metric, head=head, mirrored=mirrored, background=background)
        self.first_number = whole_number("first_number", first_number, least=0)
        if self.metric == "top5" and len(classes) < 6:
            raise UserError(f"top5 of {len(classes)} classes is always 100. Use another metric.")
        self.label_smoothing = number("label_smoothing", label_smoothing, below=1)
        self.dkd = Decoupled.read(dkd) if dkd is not None else None
        self._index = {name: index for index, name in enumerate(classes)}

    def read_label(self, payload: bytes) -> Tensor:
        try:
            text = payload.decode().strip()
        except UnicodeDecodeError:
            raise ValueError(
                f"the label is not text: {payload[:16]!r}. A class number or name is expected."
            ) from None
        is_number = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
        number = int(text) - self.first_number if is_number else None
        if number is not None and not 0 <= number < len(self.classes):
            number = None
        named = self._index.get(text)
        if number is None and named is None:
            first, last = self.first_number, self.first_number + len(self.classes) - 1
            from_one = _FROM_ONE if not first and text == str(last + 1) else ""
            raise ValueError(
                f"the label {text[:40]!r} is neither a class number from {first} to {last} nor one of the class names "
                f"({self._some_names()}).{from_one}"
            )
        if number is not None and named is not None and number != named:
            raise ValueError(
                f"the label '{text}' could be class number {number} ('{self.classes[number]}') or the name "
                f"of class {named}. Give the classes names that are not numbers."
            )
        return torch.tensor(named if number is None else number)

    @classmethod
    def label_from_cells(cls, cells: Mapping[str, Any]) -> bytes:
        """The name or number of a class."""
        ((column, cell),) = cells.items()
        if isinstance(cell, bool) or not isinstance(cell, str | int):
            raise ValueError(f"{column} is {cell!r}; the name or number of a class is expected")
        text = class_text(str(cell))
        if text.startswith("-") and text[1:].isdecimal():
            raise ValueError(
                f"{column} is {text}; class numbers begin at 0. Rows without a class have an empty cell"
            )
        return text.encode()

    @classmethod
    def classes_in(cls, labels: Iterable[bytes], columns: Sequence[str]) -> tuple[str, ...] | int | None:
        return list_classes(label.decode() for label in labels)

    def count_label(self, label: Tensor, picture: Size, counts: LabelCounts) -> None:
        counts.count("rows", {self.classes[int(label)]: 1})

    def counts_table(self, counts: LabelCounts) -> CountsTable:
        rows = counts.counts.get("rows", Counter())
        absent = (
            [] if named_classes(self.classes) is None else [name for name in self.classes if name not in rows]
        )
        lines = [(name, f"{count:,}") for name, count in by_count(rows)]
        return CountsTable(
            ("class", "rows"), [*lines, *((name, "0") for name in absent)], f"{len(rows):,} classes"
        )

    def doubts(self, counts: LabelCounts) -> list[Doubt]:
        rows = counts.counts.get("rows", Counter())
        return super().doubts(counts) + class_doubts(
            self.classes,
            rows,
            "row",
            from_one=f"write `classes: {len(self.classes) - 1}` (or their names) and `options: {{first_number: 1}}` "
            "in the recipe",
        )

    def classes_counted(self, counts: LabelCounts) -> int:
        return 1 + max(map(int, counts.counts["rows"]))

    def has_label(self, label: Tensor) -> bool:
        return True

    def filler(self, size: Size) -> Tensor:
        return torch.tensor(0)

    def transform_label(self, label: Tensor, view: View, picture: Size, size: Size) -> Tensor:
        return self._in_mirror(label, view)

    def needs(self, features: Mapping[str, FeatureShape]) -> tuple[str, ...]:
        return ("pooled",)

    def head(self, features: Mapping[str, FeatureShape]) -> nn.Module:
        return PooledHead(features["pooled"].channels, len(self.classes), self.shape)

    def supervised_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        classes = labels.clamp(min=0) if self.knows else labels
        losses = F.cross_entropy(
            logits.float(), classes, reduction="none", label_smoothing=self.label_smoothing
        )
        return self._cross_entropy(logits, labels, losses)

    def soft_target_loss(
        self, logits: Tensor, teacher_logits: Tensor, temperature: float, truth: Truth | None = None
    ) -> Tensor:
        if self.dkd is not None:
            target = teacher_logits.argmax(1)
            if truth is not None:
                target = truth.labels.where(truth.labelled & (truth.labels >= 0), target)
            return self.dkd(logits, teacher_logits, target, temperature)
        # Rounding must not push a divergence below its floor: balancing may take its logarithm.
        return soft_divergence(logits, teacher_logits, temperature).clamp(min=0)

    def decode(self, logits: Tensor, size: Size) -> dict[str, Tensor]:
        """`probabilities` float32 [B, C] and `label` int64 [B]."""
        return {"probabilities": logits.float().softmax(dim=1), "label": logits.argmax(dim=1)}

    def answers(self, decoded: Mapping[str, Tensor], top: int = 1) -> dict[str, Any]:
        """`label` and `probability`; with `top` above 1 the likeliest classes with theirs."""
        label, probabilities = int(decoded["label"]), decoded["probabilities"]
        said = {"label": self.classes[label], "probability": plain_values(probabilities[label])}
        return said | ({"top": likeliest_classes(self.classes, probabilities, top)} if top > 1 else {})

    def write_label(self, decoded: Mapping[str, Tensor]) -> tuple[str, bytes]:
        return self.member, str(int(decoded["label"]) + self.first_number).encode()

    def show_label(self, label: Tensor, image: Tensor) -> Shown:
        return Shown(None, self.classes[int(self._grounded(label))])

    def show_answer(self, logits: Tensor, image: Tensor) -> Shown:
        probability, label = logits.float().softmax(0).max(0)
        return Shown(None, f"{self.classes[int(label)]} ({100 * float(probability):.0f} %)")

    def statistics(self, logits: Tensor, labels: Tensor) -> Tensor:
        labels = self._as_answered(labels, logits.argmax(1)) if self.knows else labels
        return CLASS_SCORES[self.metric].statistics(logits.float(), labels).cpu().double()

    def score_totals(self, totals: Tensor) -> Tensor:
        return CLASS_SCORES[self.metric].of(totals)

    def class_scores(self, statistics: Tensor) -> Tensor | None:
        return CLASS_SCORES[self.metric].of_classes(statistics, len(self.classes))

    def correct_rows(self, statistics: Tensor) -> Tensor | None:
        return statistics[:, 0] > 0 if CLASS_SCORES[self.metric].share_of_right else None

    def may_differ(self, logits: Tensor, other: Tensor) -> Tensor | None:
        score = CLASS_SCORES[self.metric]
        return score.may_differ(logits.float(), other.float()).cpu() if isinstance(score, TopShare) else None

    def calibration(self, logits: Tensor, labels: Tensor) -> Tensor:
        probability, predicted = logits.float().softmax(1).max(1)
        said = labels >= 0
        return confidence_counts(probability[said], (predicted == labels)[said])

    def agreement(self, logits: Tensor, other: Tensor) -> Tensor:
        return (logits.argmax(dim=1) == other.argmax(dim=1)).cpu().double()

    def label_counts(self, labels: Tensor) -> Tensor:
        return torch.bincount(self._grounded(labels), minlength=len(self.classes)).cpu().double()

    def constant_score(self, counts: Tensor) -> float:
        return CLASS_SCORES[self.metric].of_constant(counts)

    def describe(self) -> dict[str, object]:
        said: dict[str, object] = {"label_smoothing": self.label_smoothing}
        if self.dkd is not None:
            said["dkd"] = asdict(self.dkd)
        if self.first_number:
            said["first_number"] = self.first_number
        return super().describe() | said

    def _some_names(self) -> str:
        return ", ".join(self.classes[:5]) + (", …" if len(self.classes) > 5 else "")
