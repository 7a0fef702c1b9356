"""Encode a teacher's answers as the numbers of a sidecar, and decode them.

Logits are kept, not probabilities, so that the temperature stays free. What each form costs in bytes and
in accuracy is in docs/target-cache.md.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill_mtl.networks.boxes import ABSENT, BOX, boxes_apart
from distill_mtl.targets.facts import TeacherFacts
from distill_mtl.targets.sidecar import Slot
from distill_mtl.teachers.teacher import TeacherOutput

Numbers = Literal["fp32", "fp16", "int8"]
Arrays = Mapping[str, NDArray]

LOGITS = "logits"
HIDDEN = "hidden."

_INT8 = 127
# A scale per row would spoil the logits of some kinds, so those are sent to fp32.
_INT8_HOLDS = "`targets.features: int8` has a scale for each row"
_FP32_HOLDS = "`targets.logits: fp32` holds it (and fp16 holds depths in metres)"
_TOP_K_HOLDS = "`targets.logits: fp32` without `top_k` holds it"
_HOST = torch.device("cpu")


class Codec(ABC):
    """One tensor of a teacher's answer, row by row.

    Attributes:
        slots: name in the sidecar -> type and shape of one row.
    """

    slots: Mapping[str, Slot]

    @abstractmethod
    def encode(self, values: Tensor) -> dict[str, NDArray]:
        """float [R, ...] -> what stands in the slots. Raises ValueError for what they cannot hold."""

    @abstractmethod
    def decode(self, stored: Arrays, device: torch.device) -> Tensor:
        """What stands in the slots, for R rows -> float32 [R, ...] on `device`."""

    def deviation(self, one: Arrays, other: Arrays) -> Tensor:
        """float32 [R]: how far two encodings of the same rows lie apart, in shares of a row's largest number."""
        first, second = (self.decode(stored, _HOST) for stored in (one, other))
        return _largest(first - second) / _largest(first).clamp_min(1e-6)


class Whole(Codec):
    """fp32, as it is: for values in the label's unit; fp16 would keep three digits of them."""

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self.name = name
        self.slots = {name: Slot(np.dtype(np.float32), shape)}

    def encode(self, values: Tensor) -> dict[str, NDArray]:
        _refuse_strange(self.name, values)
        return {self.name: values.float().cpu().numpy()}

    def decode(self, stored: Arrays, device: torch.device) -> Tensor:
        return _on(device, stored[self.name])

    def deviation(self, one: Arrays, other: Arrays) -> Tensor:
        """As above, as a share of the largest number of all rows, because a value near 0 has no scale."""
        first, second = (self.decode(stored, _HOST) for stored in (one, other))
        return _largest(first - second) / _largest(first).amax().clamp_min(1e-6)


class Half(Codec):
    """fp16: a relative error of at most 2^-11, for numbers from 6e-5 to 65504.

    Args:
        name, shape: of the slot.
        remedy: what a user can do about larger ones.
    """

    def __init__(self, name: str, shape: tuple[int, ...], remedy: str = _INT8_HOLDS) -> None:
        self.name, self.remedy = name, remedy
        self.slots = {name: Slot(np.dtype(np.float16), shape)}

    def encode(self, values: Tensor) -> dict[str, NDArray]:
        half = values.half()
        if not torch.isfinite(half).all():
            _refuse_strange(self.name, values)
            raise ValueError(
                f"{self.name} holds {values.abs().max():.3g}, and fp16 ends at 65504; {self.remedy}"
            )
        return {self.name: half.cpu().numpy()}

    def decode(self, stored: Arrays, device: torch.device) -> Tensor:
        return _on(device, stored[self.name]).float()


class Int8(Codec):
    """int8 with one scale per row: an error of at most 1/254 of the row's largest number."""

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self.name, self.scale = name, f"{name}.scale"
        self.slots = {name: Slot(np.dtype(np.int8), shape), self.scale: Slot(np.dtype(np.float32), ())}

    def encode(self, values: Tensor) -> dict[str, NDArray]:
        _refuse_strange(self.name, values)
        rows = values.float().flatten(1)
        # A row of zeros has no largest number; any scale gives it back.
        scale = rows.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny * _INT8) / _INT8
        steps = (rows / scale[:, None]).round().to(torch.int8).view(values.shape)
        return {self.name: steps.cpu().numpy(), self.scale: scale.cpu().numpy()}

    def decode(self, stored: Arrays, device: torch.device) -> Tensor:
        steps = _on(device, stored[self.name]).float()
        return steps * _on(device, stored[self.scale]).view(-1, *[1] * (steps.ndim - 1))


class TopK(Codec):
    """The K largest logits over dim 1 in fp16, their classes, and the mass of all others.

    The others come back as one number each, so that together they weigh what they weighed. At temperature 1
    the divergence from the whole is at most that mass times the logarithm of how many they are; at
    higher temperatures it is larger than fp16's by orders of magnitude.
    """

    def __init__(self, name: str, shape: tuple[int, ...], k: int) -> None:
        self.values, self.classes, self.rest = f"{name}.values", f"{name}.classes", f"{name}.rest"
        self.count, self.k = shape[0], k
        narrow = np.uint16 if shape[0] <= 1 << 16 else np.int32
        half = np.dtype(np.float16)
        self.slots = {
            self.values: Slot(half, (k, *shape[1:])),
            self.classes: Slot(np.dtype(narrow), (k, *shape[1:])),
            self.rest: Slot(half, shape[1:]),
        }

    def encode(self, values: Tensor) -> dict[str, NDArray]:
        values = values.float()
        top, classes = values.topk(self.k, dim=1)
        rest = values.scatter(1, classes, -math.inf).logsumexp(1)
        encoded: dict[str, NDArray] = {}
        for name, part in ((self.values, top), (self.rest, rest)):
            encoded |= Half(name, (), _TOP_K_HOLDS).encode(part)
        return encoded | {self.classes: classes.cpu().numpy().astype(self.slots[self.classes].dtype)}

    def decode(self, stored: Arrays, device: torch.device) -> Tensor:
        top, rest = (_on(device, stored[name]).float() for name in (self.values, self.rest))
        each = (rest - math.log(self.count - self.k)).unsqueeze(1)
        whole = each.repeat(1, self.count, *[1] * (top.ndim - 2))
        return whole.scatter_(1, _on(device, stored[self.classes].astype(np.int64)), top)

    def deviation(self, one: Arrays, other: Arrays) -> Tensor:
        """As above. The smallest of the K may give its place to another class that is as large."""
        whole = [self.decode(stored, _HOST) for stored in (one, other)]
        kept, border = [], []
        for stored, logits in zip((one, other), whole, strict=True):
            classes = torch.from_numpy(stored[self.classes].astype(np.int64))
            kept.append(torch.zeros_like(logits, dtype=torch.bool).scatter_(1, classes, True))
            border.append(logits.gather(1, classes).amin(1, keepdim=True))
        apart = whole[0] - whole[1]
        apart = torch.where(kept[0] & ~kept[1], whole[0] - border[0], apart)
        apart = torch.where(kept[1] & ~kept[0], whole[1] - border[1], apart)
        return _largest(apart) / _largest(whole[0]).clamp_min(1e-6)


class Boxes(Codec):
    """A detector's scored boxes: class, score and place of each slot in fp32, not a number for every class."""

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self.places, self.labels, self.scores = f"{name}.boxes", f"{name}.classes", f"{name}.scores"
        self.count = shape[0] - BOX
        narrow, single = np.uint16 if self.count < 1 << 16 else np.int32, np.dtype(np.float32)
        self.slots = {
            self.places: Slot(single, (BOX, shape[1])),
            self.labels: Slot(np.dtype(narrow), (shape[1],)),
            self.scores: Slot(single, (shape[1],)),
        }

    def encode(self, values: Tensor) -> dict[str, NDArray]:
        _refuse_strange(self.places, values)
        values = values.float().cpu()
        scores, labels = values[:, :-BOX].max(1)
        labels = labels.where(scores > ABSENT / 2, self.count)  # of no class
        return {
            self.places: values[:, -BOX:].numpy(),
            self.labels: labels.numpy().astype(self.slots[self.labels].dtype),
            self.scores: scores.numpy(),
        }

    def decode(self, stored: Arrays, device: torch.device) -> Tensor:
        labels = _on(device, stored[self.labels].astype(np.int64))
        logits = torch.full((len(labels), self.count + 1, labels.shape[1]), ABSENT, device=device)
        logits.scatter_(1, labels[:, None], _on(device, stored[self.scores])[:, None])
        return torch.cat([logits[:, :-1], _on(device, stored[self.places])], 1)

    def deviation(self, one: Arrays, other: Arrays) -> Tensor:
        """As `boxes_apart`: rounding may give two boxes each other's slot."""
        return boxes_apart(self.decode(one, _HOST), self.decode(other, _HOST))


class AnswerCodec:
    """All of one teacher's answer: its logits, and its hidden features as maps or pooled.

    Args:
        facts: of the teacher.
        pooled: layer -> whether its map is kept as the mean over its pixels.
        logits, features: the numbers that they are kept in.
        top_k: how many logits are kept; None: all, as also where all of them take less room.

    Attributes:
        slots: name in the sidecar -> type and shape of one row.
    """

    def __init__(
        self,
        facts: TeacherFacts,
        pooled: Mapping[str, bool],
        *,
        logits: Numbers = "fp16",
        features: Numbers = "fp16",
        top_k: int | None = None,
    ) -> None:
        self.facts, self.pooled = facts, dict(pooled)
        if logits == "int8" and (facts.card.known is not None or facts.card.labels.rest):
            # What stands for an unknown class, or sizes in pixels, would take all of an int8's range.
            logits = "fp16"
        self._numbers = {"logits": logits, "features": features}
        self._top_k, boxes = None, len(facts.logits) == 2
        self._logits: Codec = Boxes(LOGITS, facts.logits) if boxes else _codec(logits, LOGITS, facts.logits)
        if not boxes and top_k is not None and top_k < facts.logits[0]:
            short = TopK(LOGITS, facts.logits, top_k)
            if _size(short) < _size(self._logits):
                self._logits, self._top_k = short, top_k
        self._hidden = {layer: _codec(features, HIDDEN + layer, self._shape(layer)) for layer in self.pooled}
        self.slots: dict[str, Slot] = dict(self._logits.slots)
        for codec in self._hidden.values():
            self.slots |= codec.slots

    def describe(self) -> dict[str, Any]:
        """How answers are kept, in plain values: sidecars of other ones do not fit."""
        kept = {layer: "pooled" if pooled else "map" for layer, pooled in self.pooled.items()}
        return {**self._numbers, "top_k": self._top_k, "hidden": kept}

    def encode(self, output: TeacherOutput) -> dict[str, NDArray]:
        """What stands in the slots for the rows of an answer.

        Raises:
            ValueError: an answer is not finite, or too large for its numbers.
        """
        encoded = self._logits.encode(output.logits)
        for layer, codec in self._hidden.items():
            feature = output.hidden[layer].float()
            if self.pooled[layer] and feature.ndim == 4:
                feature = feature.mean((2, 3))
            encoded |= codec.encode(feature)
        return encoded

    def decode(self, stored: Arrays, device: torch.device) -> TeacherOutput:
        """The answer, float32 on `device`, from what stands in the slots for R rows."""
        hidden = {layer: codec.decode(stored, device) for layer, codec in self._hidden.items()}
        return TeacherOutput(self._logits.decode(stored, device), hidden)

    def deviations(self, one: Arrays, other: Arrays) -> dict[str, Tensor]:
        """Logits and each layer -> [R], how far two encodings of the same rows lie apart (`Codec.deviation`)."""
        codecs = {LOGITS: self._logits} | {f"{HIDDEN}{layer}": codec for layer, codec in self._hidden.items()}
        return {name: codec.deviation(one, other) for name, codec in codecs.items()}

    def _shape(self, layer: str) -> tuple[int, ...]:
        shape = self.facts.layers[layer]
        return (
            (shape.channels,) if self.pooled[layer] or shape.size is None else (shape.channels, *shape.size)
        )


def _codec(numbers: Numbers, name: str, shape: tuple[int, ...]) -> Codec:
    if numbers == "fp16":
        return Half(name, shape, _FP32_HOLDS if name == LOGITS else _INT8_HOLDS)
    return Whole(name, shape) if numbers == "fp32" else Int8(name, shape)


def _size(codec: Codec) -> int:
    """Bytes of a row."""
    return sum(slot.size for slot in codec.slots.values())


def _refuse_strange(name: str, values: Tensor) -> None:
    if not torch.isfinite(values).all():
        raise ValueError(f"{name} holds numbers that are not finite")


def _largest(values: Tensor) -> Tensor:
    """[R]: the largest absolute value of each row."""
    return values.abs().flatten(1).amax(1)


def _on(device: torch.device, array: NDArray) -> Tensor:
    return torch.from_numpy(array).to(device, non_blocking=True)
