"""Hints (FitNets, Romero et al. 2015, section 2.2): the student predicts a teacher's hidden feature.

The prediction goes through an adapter on the student's side, one per task and pair of layers, as in
Universal Representations (Li et al. 2022, section 3.2). Targets are standardised with statistics that
are frozen before training: the mean of every channel and one scale for the whole feature, as in PHI-S
(Ranzinger et al. 2024), so that no teacher dominates by the size of its numbers.
"""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill_mtl.distillation.term import TERMS, LossConfig, Term, TermInput
from distill_mtl.networks.features import FeatureShape


@TERMS.register("hint")
class HintTerm(Term):
    """The mean over the task's pairs of layers of each one's `Hint`; of several teachers, over those that are asked.

    Args:
        hints: one per pair of the loss config, in its order.
    """

    name = "hint"
    weight = 0.1
    rows = "taught"
    uses_logits = False
    uses_layers = True

    def __init__(self, hints: Sequence["Hint"]) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(hints)

    @classmethod
    def build(
        cls, config: LossConfig, student: Mapping[str, FeatureShape], teacher: Mapping[str, FeatureShape]
    ) -> "HintTerm | None":
        if not (config.hints and teacher):
            return None
        return cls(
            [
                Hint(
                    student[pair.student],
                    FeatureShape(teacher[pair.name].channels, None) if pair.pooled else teacher[pair.name],
                )
                for pair in config.hints
            ]
        )

    def forward(self, rows: TermInput) -> Tensor:
        losses = [
            hint(rows.feature(pair.student), rows.teacher.hidden[pair.name])
            for pair, hint in zip(rows.config.hints, self.adapters, strict=True)
            if pair.name in rows.teacher.hidden
        ]
        return (
            torch.stack(losses).mean(0) if losses else rows.teacher.logits.new_zeros(len(rows.rows)).float()
        )

    def idle(self, config: LossConfig, silent: Collection[str]) -> list[nn.Parameter]:
        pairs = zip(config.hints, self.adapters, strict=True)
        return [value for pair, hint in pairs if pair.of in silent for value in hint.parameters()]

    def calibrate(self, config: LossConfig, hidden: Sequence[Mapping[str, Tensor]]) -> None:
        for pair, hint in zip(config.hints, self.adapters, strict=True):
            assert isinstance(hint, Hint)
            hint.calibrate([features[pair.name] for features in hidden])


class Hint(nn.Module):
    """One pair of layers: an adapter from the student's feature to the teacher's standardised one.

    Maps meet at the smaller of both sizes (means over areas), so neither side has to invent detail.
    Where only one side is a map, it is averaged to a vector first.

    Args:
        student: shape of the student's feature.
        teacher: shape of the teacher's feature.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, student: FeatureShape, teacher: FeatureShape) -> None:
        super().__init__()
        self.size = _meeting_size(student, teacher)
        self.adapter: nn.Module = (
            nn.Linear(student.channels, teacher.channels)
            if self.size is None
            else nn.Conv2d(student.channels, teacher.channels, kernel_size=1)
        )
        self.register_buffer("mean", torch.zeros(teacher.channels))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Mean squared error per row, [R]: about 1 for an adapter that has learned nothing but the mean.

        Args:
            student: the student's feature for R rows.
            teacher: the teacher's feature for the same rows.
        """
        prediction = self.adapter(_fit(student, self.size)).float()
        target = self._standardised(teacher)
        return F.mse_loss(prediction, target, reduction="none").mean(tuple(range(1, target.ndim)))

    @torch.no_grad()
    def calibrate(self, features: list[Tensor]) -> None:
        """Freeze the statistics of the teacher's feature from samples of it, each [R, C, ...].

        Mean per channel; scale = square root of the mean variance over channels, so that directions
        in the feature keep their relative weight.
        """
        fitted = torch.cat(
            [
                _fit(feature.float(), self.size).flatten(2)
                if self.size
                else _fit(feature.float(), None).unsqueeze(2)
                for feature in features
            ]
        )
        self.mean.copy_(fitted.mean((0, 2)))
        variance = fitted.var((0, 2), correction=0).mean()
        self.scale.copy_(variance.sqrt().clamp_min(1e-6))

    def _standardised(self, teacher: Tensor) -> Tensor:
        fitted = teacher if _fits(teacher, self.size) else _fit(teacher.float(), self.size)
        mean = self.mean if self.size is None else self.mean[:, None, None]
        return (fitted - mean).div_(self.scale)


def _meeting_size(student: FeatureShape, teacher: FeatureShape) -> tuple[int, int] | None:
    if student.size is None or teacher.size is None:
        return None
    return min(student.size[0], teacher.size[0]), min(student.size[1], teacher.size[1])


def _fit(feature: Tensor, size: tuple[int, int] | None) -> Tensor:
    """The feature as a map of `size`, or as a vector where size is None."""
    if _fits(feature, size):
        return feature
    return feature.mean((2, 3)) if size is None else F.adaptive_avg_pool2d(feature, size)


def _fits(feature: Tensor, size: tuple[int, int] | None) -> bool:
    return feature.ndim == 2 if size is None else feature.shape[-2:] == size
