"""Training for 8 bits: the student's layers compute in rounded numbers, and the fp32 student teaches it on every row.

Quantisation-aware training (Jacob et al. 2018, section 3) with straight-through gradients, in the scheme of
`export/int8.py`: weights with a sign and a scale for each output channel, inputs of layers without a sign, between the
smallest and the largest value that rows have shown. Weights stay in fp32; the file is quantised from them as usual.
`jobs/int8_finetuning.py` trains with it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from distill_mtl.balance import Rule, Shared, Tree
from distill_mtl.data.batch import Batch
from distill_mtl.distillation.counts import Counts
from distill_mtl.distillation.objective import Objective, TermValues
from distill_mtl.distillation.term import LossConfig, Term
from distill_mtl.networks.modes import evaluating
from distill_mtl.recipe.schema import task_of
from distill_mtl.students.student import Student
from distill_mtl.teachers.teacher import Target, Targets, TeacherOutput

_CHANNELS = {F.linear: 0, F.conv1d: 0, F.conv2d: 0, F.conv_transpose1d: 1, F.conv_transpose2d: 1}
"""Operations with weights -> the weights' axis of output channels."""
_SUMS = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__}
_Place = tuple[str, int]
"""A place in a pass: the last layer, by its weight's name, and how many sides of sums have come since; 0: its input."""


class FakeQuantisation(TorchFunctionMode):
    """While it is entered, layers and sums of a student compute as in its int8 file; gradients pass the rounding.

    The last layer of each head stays as it is, and so do the sums of a transformer, as in the file; and weights that
    are computed in the pass, such as standardised ones.

    Args:
        student: on its device. Its range of each layer's input is what `observe` has seen.
    """

    def __init__(self, student: Student) -> None:
        super().__init__()
        self._student = student
        self._names = {id(value): name for name, value in student.named_parameters()}
        self._ranges: dict[_Place, tuple[Tensor, Tensor]] = {}
        self._left: set[str] = set()
        self._observing = False
        self._sums = not any(isinstance(module, nn.LayerNorm) for module in student.modules())
        self._at: _Place = ("", 0)

    @property
    def layers(self) -> list[str]:
        """Names of the weights that are rounded, in the order in which they run."""
        return [name for name, further in self._ranges if not further and name not in self._left]

    @torch.no_grad()
    def observe(self, batches: Iterable[Tensor]) -> None:
        """See what reaches each layer of the student, in evaluation mode.

        Args:
            batches: images [B, 3, H, W] in [0, 1], on the student's device.
        """
        with self._looking(), evaluating(self._student):
            for images in batches:
                with self:
                    self._student(images)
        for task in self._student.heads:
            self._left.update([name for name in self.layers if name.startswith(f"heads.{task}.")][-1:])

    def __enter__(self) -> "FakeQuantisation":
        self._at = ("", 0)  # a pass begins
        super().__enter__()
        return self

    @contextmanager
    def _looking(self) -> Iterator[None]:
        self._observing = True
        try:
            yield
        finally:
            self._observing = False

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = list(args)
        name = self._names.get(id(args[1])) if func in _CHANNELS and len(args) > 1 else None
        if name is not None:
            self._at = (name, 0)
            if name not in self._left:
                given[0] = self._rounded(args[0])
                if not self._observing and self._at in self._ranges:
                    given[1] = rounded_weight(args[1], _CHANNELS[func])
        elif (
            self._sums
            and func in _SUMS
            and all(isinstance(each, Tensor) and each.is_floating_point() for each in args[:2])
        ):
            given[:2] = [self._rounded(each, further=1) for each in args[:2]]
        return func(*given, **(kwargs or {}))

    def _rounded(self, values: Tensor, further: int = 0) -> Tensor:
        """Values that come to a place in the pass, rounded in its range; while that is observed, as they are."""
        self._at = (self._at[0], self._at[1] + further)
        if self._observing:
            low, high = self._ranges.get(self._at, (values.new_zeros(()), values.new_zeros(())))
            self._ranges[self._at] = (torch.minimum(low, values.min()), torch.maximum(high, values.max()))
            return values
        return rounded_input(values, *self._ranges[self._at]) if self._at in self._ranges else values


def rounded_input(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Values in 256 steps from `low` to `high`, 0 among them; what lies outside is cut, and gets no gradient."""
    scale = ((high - low) / 255).clamp(min=torch.finfo(torch.float32).tiny)
    zero = (-low / scale).round().to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(values, scale, zero, 0, 255)


def rounded_weight(weight: Tensor, axis: int) -> Tensor:
    """A weight in 255 steps, as far below 0 as above, with a scale for each output channel.

    Args:
        weight: of a layer.
        axis: of its output channels.
    """
    others = [other for other in range(weight.ndim) if other != axis]
    scale = (weight.detach().abs().amax(others) / 127).clamp(min=torch.finfo(torch.float32).tiny)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, axis, -127, 127)


class QuantisedObjective(Objective):
    """The losses of a run, for a student in 8 bits that the student in fp32 teaches as well, on every row.

    On a row that a teacher answers the two count half each; elsewhere the student in fp32 counts alone, beside the
    label where there is one. Normalisation keeps the statistics that it has.

    Args:
        student, loss_configs, terms, rule: as `Objective` has them; the terms without hints.
        fp32: the student that it begins as, on the same device.
        quantisation: of `student`, observed.
        rows: of a step, over all processes and micro-batches.
    """

    def __init__(
        self,
        student: Student,
        loss_configs: Mapping[str, LossConfig],
        terms: Mapping[str, Sequence[Term]],
        rule: Rule,
        *,
        fp32: Student,
        quantisation: FakeQuantisation,
        rows: int,
    ) -> None:
        super().__init__(student, loss_configs, terms, rule)
        # In a tuple it is no part of the module: it does not train, and no checkpoint keeps it.
        self._fp32 = (fp32.eval().requires_grad_(False),)
        self._quantisation, self._rows = quantisation, rows

    def train(self, mode: bool = True) -> "QuantisedObjective":
        super().train(mode)
        for module in self.student.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(
        self, images: Tensor, batch: Batch, targets: Targets, counts: Counts, micro: int = 0
    ) -> tuple[dict[str, Tensor], Shared | Tree, dict[str, TermValues]]:
        with torch.no_grad():
            answers = self._fp32[0](images)
        rows = torch.arange(len(images), device=images.device)
        both = {name: _halved(target) for name, target in targets.items()}
        for task, answer in answers.items():
            taught = [target.rows for name, target in targets.items() if task_of(name) == task]
            weights = torch.ones(len(rows), device=images.device)
            for each in taught:
                weights[each] = 0.5
            both[f"{task}/fp32"] = Target(rows, TeacherOutput(answer.float(), {}), weights=weights)
        everywhere = replace(counts, taught=dict.fromkeys(counts.taught, self._rows))
        with self._quantisation:
            return super().forward(images, batch, both, everywhere, micro)


def _halved(target: Target) -> Target:
    whole = (
        torch.ones(len(target.rows), device=target.rows.device) if target.weights is None else target.weights
    )
    return replace(target, weights=whole / 2)
