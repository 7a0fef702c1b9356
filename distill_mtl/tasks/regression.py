"""Numbers per image: an age, a pose, a count. Labels are JSON (`values.json`), in whatever unit they have."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_mtl.errors import UserError, a_few, nearest
from distill_mtl.geometry.views import Size, View
from distill_mtl.networks.features import FeatureShape
from distill_mtl.tasks.base import DEFAULT_HEAD, KINDS, AdditiveKind, HeadShape, Shown, Truth
from distill_mtl.tasks.doubts import Doubt, impossible_values, never
from distill_mtl.tasks.heads import PooledHead
from distill_mtl.tasks.json_values import NOT_KNOWN, cell_text, plain_values, read_vector, short_json
from distill_mtl.tasks.label import CountsTable, LabelCounts, NumberStats, percent, to_json
from distill_mtl.tasks.options import is_number, mirror_partners, read_mirrored

LOSSES = ("smooth_l1", "l1", "l2")
ALIKE = 0.1
"""Difference in units of `scale` below which two networks say the same."""
_DIGITS = 6  # of offset and scale in a recipe


@KINDS.register("regression")
class Regression(AdditiveKind):
    """Logits [R, C] and labels float32 [R, C] in the labels' own unit; NaN where a label is unknown.

    The head gives standardised numbers, times `scale` plus `offset`. Losses are in units of `scale`: with the
    standard deviation of the labels as scale, their mean as an answer costs 1 (`l2`), 0.8 (`l1`) or 0.4
    (`smooth_l1`), as other tasks' losses begin, whatever the unit. A row's loss is the mean over its known values.
    Temperatures mean nothing here.

    Metrics, each a mean over the values: `r2`, the share of variance explained in points (torchmetrics' R2Score
    with uniform average), `mae` and `rmse` in the labels' unit.

    Args:
        loss: `smooth_l1` (Girshick 2015, arXiv:1504.08083, equation (3)): a few wrong labels do not outweigh the
            others, as in `l2`, and near the truth the gradient fades, as it does not in `l1`. Where there
            are teachers, it is the distance to them.
        scale: spread of the values, one number or one per value.
        offset: their middle, likewise.
        bounded: margin of teacher-bounded regression (Chen et al. 2017, "Learning Efficient Object Detection
            Models with Knowledge Distillation", section 3.3, equation (4)), in units of the loss: where the label is
            known, soft targets are the student's own distance to it, and count unless that is smaller than the
            teacher's by more than the margin. The equation has `l2`. None: the distance to the teacher.
        mirrored: pairs of values that change places when a picture is mirrored.
        negated: values whose sign changes then (a yaw).
    """

    name = "regression"
    member = "values.json"
    metrics = ("r2", "mae", "rmse")
    lower_is_better = frozenset({"mae", "rmse"})
    unit_metrics = frozenset({"mae", "rmse"})
    precise = True
    head_options = ("scale", "offset")
    from_table = "columns"
    asked_as = "numbers"

    def __init__(
        self,
        classes: tuple[str, ...],
        metric: str | None = None,
        *,
        head: HeadShape = DEFAULT_HEAD,
        loss: str = "smooth_l1",
        scale: float | Sequence[float] = 1.0,
        offset: float | Sequence[float] = 0.0,
        bounded: float | None = None,
        mirrored: Sequence[Sequence[str]] = (),
        negated: Sequence[str] = (),
    ) -> None:
        super().__init__(classes, metric, head=head)
        if loss not in LOSSES:
            raise UserError(f"loss: found {loss!r}, expected {', '.join(LOSSES)}.")
        if bounded is not None and not (is_number(bounded) and bounded >= 0):
            raise UserError(f"bounded: found {bounded!r}, expected a margin of 0 or more.")
        self.loss, self.bounded = loss, bounded
        self.scale = self._each(scale, "scale")
        if min(self.scale) <= 0:
            raise UserError(f"scale: found {min(self.scale):g}, expected numbers above 0.")
        self.offset = self._each(offset, "offset")
        self.mirrored = read_mirrored(mirrored, self.classes)
        if not isinstance(negated, list | tuple):
            raise UserError(f"negated: found {negated!r}, expected a list of names of the values.")
        self.negated = tuple(str(name) for name in negated)
        for name in self.negated:
            if name not in classes:
                raise UserError(
                    f"options.negated: the task has no '{name}'.{nearest(str(name), classes)} Values: {a_few(classes)}."
                )
        self._partners = mirror_partners(self.mirrored, self.classes)
        self._turned = [classes.index(name) for name in self.negated]

    @property
    def options_on_labelled_rows(self) -> tuple[str, ...]:
        return () if self.bounded is None else ("bounded",)

    def read_label(self, payload: bytes) -> Tensor:
        values = read_vector(payload, self.classes)
        for name, value in zip(self.classes, values, strict=True):
            if value is not None and not is_number(value):
                raise ValueError(
                    f"the label of '{name}' is {short_json(value)}. Expected a number or null (unknown)."
                )
        return torch.tensor([math.nan if value is None else float(value) for value in values])

    @classmethod
    def label_from_cells(cls, cells: Mapping[str, Any]) -> bytes:
        """A number for each column, or of one column the number alone; empty where it is not known."""
        values = {column: _value(column, cell) for column, cell in cells.items()}
        return to_json(values if len(values) > 1 else next(iter(values.values())))

    def count_label(self, label: Tensor, picture: Size, counts: LabelCounts) -> None:
        for name, value in zip(self.classes, label.tolist(), strict=True):
            unknown = math.isnan(value)
            counts.count(name, {"unknown": int(unknown)})
            if not unknown:
                counts.measure(name, value)
                counts.count_values(_values_of(name), [value])

    def counts_table(self, counts: LabelCounts) -> CountsTable:
        lines: list[tuple[str, ...]] = []
        for name in self.classes:
            numbers, unknown = counts.numbers.get(name), counts.counts[name]["unknown"]
            figures = (numbers.mean, numbers.std, numbers.least, numbers.largest) if numbers else ()
            cells = (*(f"{figure:,.5g}" for figure in figures), *["–"] * (4 - len(figures)))
            lines.append((name, *cells, percent(unknown, counts.rows)))
        return CountsTable(("value", "mean", "std", "min", "max", "unknown"), lines)

    def doubts(self, counts: LabelCounts) -> list[Doubt]:
        found = super().doubts(counts)
        if found:
            return found
        alike = {
            f"{name} = {numbers.least:g}"
            for name, numbers in counts.numbers.items()
            if numbers.count > 1 and numbers.least == numbers.largest
        }
        return [
            *never(
                [name for name in self.classes if name not in counts.numbers],
                "no label says anything of {names}. Is the right column named?",
            ),
            *never(
                sorted(alike),
                "all labels are the same: {names}. A constant answers them, so they teach nothing. Is the right column "
                "named?",
            ),
            *(
                doubt
                for name in self.classes
                for doubt in impossible_values(name, counts.counts.get(_values_of(name), {}))
            ),
        ]

    def options_counted(self, counts: LabelCounts) -> dict[str, Any]:
        """`offset` and `scale` that bring the values to mean 0 and standard deviation 1."""
        stats = [counts.numbers.get(name, NumberStats()) for name in self.classes]
        offset = [float(f"{numbers.mean:.{_DIGITS}g}") for numbers in stats]
        scale = [float(f"{numbers.std:.{_DIGITS}g}") or 1.0 for numbers in stats]
        return (
            {"offset": offset, "scale": scale} if len(stats) > 1 else {"offset": offset[0], "scale": scale[0]}
        )

    def has_label(self, label: Tensor) -> bool:
        return not bool(label.isnan().all())

    def filler(self, size: Size) -> Tensor:
        return torch.full((len(self.classes),), math.nan)

    def transform_label(self, label: Tensor, view: View, picture: Size, size: Size) -> Tensor:
        if not view.flip or not (self.mirrored or self.negated):
            return label
        label = label[self._partners]
        label[self._turned] *= -1
        return label

    def needs(self, features: Mapping[str, FeatureShape]) -> tuple[str, ...]:
        return ("pooled",)

    def head(self, features: Mapping[str, FeatureShape]) -> nn.Module:
        return _ValuesHead(
            PooledHead(features["pooled"].channels, len(self.classes), self.shape), self.scale, self.offset
        )

    def supervised_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        known = ~labels.isnan()
        return self._to_labels(logits, labels, known).sum(1) / known.sum(1).clamp(min=1)

    def soft_target_loss(
        self, logits: Tensor, teacher_logits: Tensor, temperature: float, truth: Truth | None = None
    ) -> Tensor:
        """Mean over the values of the distance to the teacher, or to the label that it bounds.

        With a margin above 0, a student that equals its teacher still pays on rows with a label.
        """
        teacher_logits = teacher_logits.detach().float()
        apart = self._distance(logits.float() - teacher_logits)
        if self.bounded is None or truth is None:
            return apart.mean(1)
        known = ~truth.labels.isnan() & truth.labelled[:, None]
        mine, bound = (self._to_labels(each, truth.labels, known) for each in (logits, teacher_logits))
        number = known.sum(1).clamp(min=1)
        counts = mine.sum(1) / number + self.bounded > bound.sum(1) / number
        return (torch.where(known, mine * counts[:, None], apart)).mean(1)

    def decode(self, logits: Tensor, size: Size) -> dict[str, Tensor]:
        """`values` float32 [B, C] in the labels' unit."""
        return {"values": logits.float()}

    def answers(self, decoded: Mapping[str, Tensor], top: int = 1) -> dict[str, Any]:
        """`values` by name, in the labels' unit."""
        return {"values": dict(zip(self.classes, plain_values(decoded["values"]), strict=True))}

    def write_label(self, decoded: Mapping[str, Tensor]) -> tuple[str, bytes]:
        values = [value if math.isfinite(value) else None for value in decoded["values"].tolist()]
        return self.member, json.dumps(dict(zip(self.classes, values, strict=True))).encode()

    def show_label(self, label: Tensor, image: Tensor) -> Shown:
        return Shown(None, self._named(label))

    def show_answer(self, logits: Tensor, image: Tensor) -> Shown:
        return Shown(None, self._named(logits))

    def statistics(self, logits: Tensor, labels: Tensor) -> Tensor:
        """[known, label, its square, absolute error, squared error], each by value, K = 5 C, in units of `scale`.

        From `offset` on: squares of numbers far from 0 would leave little of their spread. An answer that is no
        number is as wrong as one can be.
        """
        logits = logits.float().nan_to_num(nan=torch.finfo(torch.float32).max).cpu().double()
        labels = labels.cpu().double()
        known = ~labels.isnan()
        scale, offset = (torch.tensor(each, dtype=torch.float64) for each in (self.scale, self.offset))
        value = torch.where(known, (labels - offset) / scale, 0.0)
        error = torch.where(known, (logits - labels) / scale, 0.0)
        return torch.cat([known.double(), value, value**2, error.abs(), error**2], dim=1)

    def score_totals(self, totals: Tensor) -> Tensor:
        return self._by_value(totals).nanmean(dim=-1).nan_to_num(0.0)

    def row_scores(self, statistics: Tensor) -> Tensor:
        """For `r2`, which compares rows, the share of the variance explained as if that were the square of `scale`."""
        if self.metric != "r2":
            return super().row_scores(statistics)
        known, _, _, _, squared_errors = statistics.chunk(5, dim=1)
        return 100 * (1 - squared_errors.sum(1) / known.sum(1).clamp(min=1))

    def class_scores(self, statistics: Tensor) -> Tensor:
        """Of each value."""
        return self._by_value(statistics.sum(0))

    def _by_value(self, totals: Tensor) -> Tensor:
        """[..., C] from summed statistics, NaN for a value that is never known or, for `r2`, always the same."""
        rows, values, squares, errors, squared_errors = totals.chunk(5, dim=-1)
        if self.metric == "r2":
            spread = squares - values**2 / rows
            # A value that is always the same (but for rounding) has nothing to explain.
            unexplained = torch.where(spread > 1e-12 * squares, squared_errors / spread, torch.nan)
            return 100 * (1 - unexplained)
        by_value = errors / rows if self.metric == "mae" else (squared_errors / rows).sqrt()
        return by_value * torch.tensor(self.scale, dtype=torch.float64)

    def agreement(self, logits: Tensor, other: Tensor) -> Tensor:
        """Share of the values that differ by less than a tenth of `scale`."""
        return (self._scaled(logits.float() - other.float()).abs() < ALIKE).cpu().double().mean(dim=1)

    def label_counts(self, labels: Tensor) -> Tensor:
        """[known, labels, their squares], each by value, K = 3 C, as in `statistics`."""
        return self.statistics(labels, labels)[:, : 3 * len(self.classes)].sum(0)

    def constant_score(self, counts: Tensor) -> float:
        """That of the mean: exact for r2 and rmse. For mae, whose best constant is the median, it is that of a
        normal distribution with the labels' variance."""
        if self.metric == "r2":
            return 0.0
        rows, values, squares = counts.chunk(3)
        variance = (squares / rows - (values / rows) ** 2).clamp(min=0)
        spread = variance.sqrt() * torch.tensor(self.scale, dtype=torch.float64)
        usual = math.sqrt(2 / math.pi) if self.metric == "mae" else 1.0
        return usual * float(spread.nanmean().nan_to_num(0.0))

    def describe(self) -> dict[str, object]:
        return super().describe() | {
            "loss": self.loss,
            "scale": list(self.scale),
            "offset": list(self.offset),
            "bounded": self.bounded,
            "mirrored": [list(pair) for pair in self.mirrored],
            "negated": list(self.negated),
        }

    def _to_labels(self, answers: Tensor, labels: Tensor, known: Tensor) -> Tensor:
        """[R, C]: distance of each value to its label, 0 where there is none."""
        # NaN is put away before anything is computed from it: a gradient of 0 * NaN is NaN.
        return self._distance(answers.float() - torch.where(known, labels, answers.detach()))

    def _distance(self, differences: Tensor) -> Tensor:
        """The loss of each value from differences in the labels' unit."""
        scaled = self._scaled(differences)
        if self.loss == "l2":
            return scaled**2
        if self.loss == "l1":
            return scaled.abs()
        return F.smooth_l1_loss(scaled, torch.zeros_like(scaled), reduction="none")

    def _scaled(self, differences: Tensor) -> Tensor:
        return differences / torch.tensor(self.scale).to(differences.device, non_blocking=True)

    def _each(self, option: Any, name: str) -> tuple[float, ...]:
        """One number per value."""
        numbers = list(option) if isinstance(option, Sequence) and not isinstance(option, str) else None
        each = [option] * len(self.classes) if numbers is None else numbers
        if len(each) != len(self.classes) or not all(is_number(number) for number in each):
            raise UserError(
                f"{name}: found {option!r}, expected a number, or one for each of {', '.join(self.classes)}."
            )
        return tuple(float(number) for number in each)

    def _named(self, values: Tensor) -> str:
        pairs = zip(self.classes, values.tolist(), strict=True)
        return ", ".join(f"{name} {value:.4g}" for name, value in pairs if not math.isnan(value))


class _ValuesHead(nn.Module):
    """Standardised numbers -> numbers in the labels' unit, float32: bf16 has no place for 12345.6.

    Scale and offset are the recipe's, not weights: config.json keeps them.
    """

    def __init__(self, standardised: nn.Module, scale: Sequence[float], offset: Sequence[float]) -> None:
        super().__init__()
        self.standardised = standardised
        self.register_buffer("scale", torch.tensor(scale), persistent=False)
        self.register_buffer("offset", torch.tensor(offset), persistent=False)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """[B, C]."""
        values: Tensor = self.standardised(features).float() * self.scale + self.offset
        return values


def _values_of(name: str) -> str:
    """The name of the counts of a value's numbers."""
    return f"values of {name}"


def _value(column: str, cell: Any) -> float | int | None:
    text = cell_text(cell)
    if text in NOT_KNOWN:
        return None
    try:
        number = float(text)
    except ValueError:
        raise ValueError(
            f"{column} is {cell!r}; a number is expected, and nothing where it is not known"
        ) from None
    if not math.isfinite(number):
        raise ValueError(f"{column} is {cell!r}; a finite number is expected")
    return int(number) if number.is_integer() and abs(number) < 2**53 else number
