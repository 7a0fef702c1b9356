"""Any number of classes per image, each there or not. Labels are JSON (`attributes.json`), 0, 1 or null per class."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_mtl.geometry.views import Size, View
from distill_mtl.networks.features import FeatureShape
from distill_mtl.tasks.base import DEFAULT_HEAD, KINDS, HeadShape, Shown, TaskKind, Truth, by_row
from distill_mtl.tasks.doubts import Doubt, never
from distill_mtl.tasks.heads import PooledHead
from distill_mtl.tasks.json_values import (
    NOT_KNOWN,
    cell_text,
    likeliest_classes,
    plain_values,
    read_vector,
    short_json,
)
from distill_mtl.tasks.label import CountsTable, LabelCounts, percent, to_json
from distill_mtl.tasks.losses import average_sigmoid, bernoulli_divergence
from distill_mtl.tasks.metrics import average_precision, confidence_counts
from distill_mtl.tasks.options import mirror_partners, read_mirrored

UNKNOWN = -1
_VALUES = {"1": 1, "true": 1, "yes": 1, "0": 0, "-1": 0, "false": 0, "no": 0}
"""What a table's cell may say of an attribute."""
_FLOOR = 1e-6  # of a probability and of what it lacks to 1, before its logit is taken


@KINDS.register("multilabel")
class Multilabel(TaskKind):
    """A sigmoid per class; logits [R, C], labels int64 [R, C] of 1, 0 and -1 where nothing is known.

    Both losses are *means* over the classes: one attribute and forty weigh the same beside another task, and
    supervised and soft-target loss stay of one scale. (The likelihood of independent decisions would be the sum.)

    Metrics: `map`, the mean average precision over the classes that have a positive label (torchmetrics' macro
    average), and `error`, the mean over the classes of the share of wrong decisions at probability 0.5.
    Unknown labels count nowhere.

    Args:
        mirrored: pairs of classes that change places when a picture is mirrored: [[left arm, right arm]].
    """

    name = "multilabel"
    member = "attributes.json"
    metrics = ("map", "error")
    lower_is_better = frozenset({"error"})
    partial = True
    by_class = True
    from_table = "columns"
    asked_as = "choices"

    def __init__(
        self,
        classes: tuple[str, ...],
        metric: str | None = None,
        *,
        head: HeadShape = DEFAULT_HEAD,
        mirrored: Sequence[Sequence[str]] = (),
    ) -> None:
        super().__init__(classes, metric, head=head)
        self.mirrored = read_mirrored(mirrored, self.classes)
        self._partners = mirror_partners(self.mirrored, self.classes)

    def read_label(self, payload: bytes) -> Tensor:
        values = read_vector(payload, self.classes)
        for name, value in zip(self.classes, values, strict=True):
            if value not in (0, 1, None):
                raise ValueError(
                    f"the label of '{name}' is {short_json(value)}. Expected 0, 1 or null (unknown)."
                )
        return torch.tensor([UNKNOWN if value is None else int(value) for value in values])

    @classmethod
    def label_from_cells(cls, cells: Mapping[str, Any]) -> bytes:
        """1 and 0, or 1 and -1 as CelebA writes it; empty where it is not known."""
        return to_json({column: _attribute(column, cell) for column, cell in cells.items()})

    def count_label(self, label: Tensor, picture: Size, counts: LabelCounts) -> None:
        for name, value in zip(self.classes, label.tolist(), strict=True):
            counts.count(name, {"unknown" if value == UNKNOWN else str(value): 1})

    def counts_table(self, counts: LabelCounts) -> CountsTable:
        lines = [
            (name, f"{values['1']:,}", f"{values['0']:,}", percent(values["unknown"], values.total()))
            for name, values in sorted(counts.counts.items(), key=lambda one: -one[1]["1"])
        ]
        return CountsTable(("attribute", "1", "0", "unknown"), lines, f"{len(lines):,} attributes")

    def doubts(self, counts: LabelCounts) -> list[Doubt]:
        found = super().doubts(counts)
        if found:
            return found
        values = {name: counts.counts.get(name, Counter()) for name in self.classes}
        known = {name: each for name, each in values.items() if each["0"] or each["1"]}
        alike = "{names}, so these labels teach nothing about it. Is the right column named?"
        return [
            *never([name for name in values if name not in known], f"no label says anything of {alike}"),
            *never([name for name, each in known.items() if not each["1"]], f"no row has {alike}"),
            *never([name for name, each in known.items() if not each["0"]], f"every row has {alike}"),
        ]

    def has_label(self, label: Tensor) -> bool:
        return bool((label != UNKNOWN).any())

    def filler(self, size: Size) -> Tensor:
        return torch.full((len(self.classes),), UNKNOWN)

    def transform_label(self, label: Tensor, view: View, picture: Size, size: Size) -> Tensor:
        return label[self._partners] if view.flip and self.mirrored else label

    def within(self, label: Tensor, known: Sequence[int]) -> Tensor:
        """Of the other classes nothing is known, whatever stands there: a table may hold 0 for them."""
        return self.keep_known_classes(label[None], known)[0]

    def leaves_open(self, label: Tensor) -> bool:
        return bool((label == UNKNOWN).any())

    def labels_of_classes(self, labels: Tensor, known: Sequence[int]) -> tuple[Tensor, Tensor]:
        chosen = labels[:, list(known)]
        return chosen, (chosen != UNKNOWN).any(1)

    def average(self, answers: Sequence[Tensor], shares: Tensor, temperature: float) -> Tensor:
        return average_sigmoid(self.alike(answers), by_row(shares, 2), temperature)

    def sureness(self, logits: Tensor) -> Tensor:
        """Minus the entropy of the decisions at temperature 1, mean over the classes."""
        yes = logits.float().sigmoid()
        return -(torch.special.entr(yes) + torch.special.entr(1 - yes)).mean(1)

    def keep_known_classes(self, labels: Tensor, known: Sequence[int]) -> Tensor:
        classes = list(known)
        asked = torch.full_like(labels, UNKNOWN)
        asked[:, classes] = labels[:, classes]
        return asked

    def needs(self, features: Mapping[str, FeatureShape]) -> tuple[str, ...]:
        return ("pooled",)

    def head(self, features: Mapping[str, FeatureShape]) -> nn.Module:
        return PooledHead(features["pooled"].channels, len(self.classes), self.shape)

    def supervised_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Binary cross-entropy, mean over the row's known classes; 0 for a row without any."""
        known = labels != UNKNOWN
        losses = F.binary_cross_entropy_with_logits(
            logits.float(), labels.clamp(min=0).float(), reduction="none"
        )
        return (losses * known).sum(1) / known.sum(1).clamp(min=1)

    @classmethod
    def are_probabilities(cls, answer: Tensor) -> bool:
        """All in [0, 1], and not all of them decisions (0 or 1 alone).

        Few logits may all lie there by accident: `output: {gives: logits}` says so.
        """
        inside = bool((answer >= 0).all() and (answer <= 1).all())
        return inside and bool(((answer > 0) & (answer < 1)).any())

    @classmethod
    def logits_of(cls, probabilities: Tensor) -> Tensor:
        return probabilities.clamp(_FLOOR, 1 - _FLOOR).logit()

    def soft_target_loss(
        self, logits: Tensor, teacher_logits: Tensor, temperature: float, truth: Truth | None = None
    ) -> Tensor:
        """KL(teacher ‖ student) of each class's Bernoulli distribution, mean over the classes, times T².

        Hinton, Vinyals & Dean 2015 (arXiv:1503.02531, section 2) with a sigmoid in place of the softmax.
        """
        return bernoulli_divergence(logits, teacher_logits, temperature).mean(1)

    def decode(self, logits: Tensor, size: Size) -> dict[str, Tensor]:
        """`probabilities` float32 [B, C] and `label` int64 [B, C], 1 where a class is more likely there."""
        return {"probabilities": logits.float().sigmoid(), "label": (logits > 0).long()}

    def answers(self, decoded: Mapping[str, Tensor], top: int = 1) -> dict[str, Any]:
        """`labels`, the classes that are there, and the `probabilities` of all; with `top` above 1 the likeliest."""
        there = decoded["label"].nonzero().flatten().tolist()
        said = {
            "labels": [self.classes[place] for place in there],
            "probabilities": dict(zip(self.classes, plain_values(decoded["probabilities"]), strict=True)),
        }
        return said | (
            {"top": likeliest_classes(self.classes, decoded["probabilities"], top)} if top > 1 else {}
        )

    def write_label(self, decoded: Mapping[str, Tensor]) -> tuple[str, bytes]:
        return self.member, json.dumps(
            dict(zip(self.classes, decoded["label"].tolist(), strict=True))
        ).encode()

    def show_label(self, label: Tensor, image: Tensor) -> Shown:
        unknown = int((label == UNKNOWN).sum())
        return Shown(None, self._named(label == 1) + (f" ({unknown} unknown)" if unknown else ""))

    def show_answer(self, logits: Tensor, image: Tensor) -> Shown:
        return Shown(None, self._named(logits > 0))

    def statistics(self, logits: Tensor, labels: Tensor) -> Tensor:
        """[logits by class, labels by class], K = 2 C: a precision needs the answers in order."""
        return torch.cat([logits.double(), labels.double()], dim=1).cpu()

    def score(self, statistics: Tensor, weights: Tensor | None = None) -> Tensor:
        logits, labels = statistics.chunk(2, dim=1)
        counted = torch.ones(1, len(labels), dtype=torch.float64) if weights is None else weights.double()
        scores = 100 * self._by_class(logits, labels, counted).nanmean(dim=1).nan_to_num(0.0)
        return scores if weights is not None else scores[0]

    def row_scores(self, statistics: Tensor) -> Tensor:
        """Share of a row's wrong decisions, or for `map`, which ranks rows, of its right ones."""
        logits, labels = statistics.chunk(2, dim=1)
        known = labels != UNKNOWN
        wrong = (known & ((logits > 0) != (labels == 1))).sum(1) / known.sum(1).clamp(min=1)
        return 100 * (1 - wrong if self.metric == "map" else wrong).double()

    def class_scores(self, statistics: Tensor) -> Tensor:
        logits, labels = statistics.chunk(2, dim=1)
        return 100 * self._by_class(logits, labels, torch.ones(1, len(labels), dtype=torch.float64))[0]

    def calibration(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Of decisions, each with the probability of what was decided."""
        known = labels != UNKNOWN
        right = (logits > 0) == (labels == 1)
        return confidence_counts(logits.float().abs().sigmoid()[known], right[known])

    def agreement(self, logits: Tensor, other: Tensor) -> Tensor:
        """Share of the classes on which both decide alike."""
        return ((logits > 0) == (other > 0)).cpu().double().mean(dim=1)

    def decisions(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        return (logits > 0).long(), logits.float().abs()

    def label_counts(self, labels: Tensor) -> Tensor:
        """[positive rows by class, known rows by class], K = 2 C."""
        return torch.cat([(labels == 1).sum(0), (labels != UNKNOWN).sum(0)]).cpu().double()

    def constant_score(self, counts: Tensor) -> float:
        """map: all answers are alike, so each class's precision is its share; error: its rarer side."""
        positive, known = counts.chunk(2)
        shares = positive / known  # NaN for a class without a known label
        if self.metric == "error":
            return 100 * float(torch.minimum(shares, 1 - shares).nanmean().nan_to_num(0.0))
        return 100 * float(shares[positive > 0].mean().nan_to_num(0.0))

    def describe(self) -> dict[str, object]:
        return super().describe() | {"mirrored": [list(pair) for pair in self.mirrored]}

    def _by_class(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        by_class = self._precision if self.metric == "map" else self._error
        return by_class(logits, labels, weights)

    def _precision(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """[S, C]: average precision, NaN for a class without a positive."""
        columns = []
        for scores, truth in zip(logits.unbind(1), labels.unbind(1), strict=True):
            known = truth != UNKNOWN
            hits, counted = truth[known] == 1, weights[:, known]
            columns.append(average_precision(scores[known], hits, counted, counted @ hits.double()))
        return torch.stack(columns, dim=1)

    def _error(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """[S, C]: share of wrong decisions, NaN for a class without a known label."""
        known = labels != UNKNOWN
        wrong = known & ((logits > 0) != (labels == 1))
        return (weights @ wrong.double()) / (weights @ known.double())

    def _named(self, there: Tensor) -> str:
        return ", ".join(self.classes[place] for place in there.nonzero().flatten().tolist()) or "none"


def _attribute(column: str, cell: Any) -> int | None:
    text = cell_text(cell)
    if text in NOT_KNOWN:
        return None
    if text not in _VALUES:
        raise ValueError(
            f"{column} is {cell!r}; 0 or 1 (or -1 and 1) is expected, and nothing where it is not known"
        )
    return _VALUES[text]
