"""Common mistakes in a teacher's preprocessing: normalisation, range, colours, size, and the order of its classes.

Each candidate runs the same teacher in another way; `diagnoses` tries them where a teacher scores too low.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from distill_mtl.data.batch import Batch
from distill_mtl.networks.inputs import InputContract
from distill_mtl.recipe.mistakes import show
from distill_mtl.tasks.base import TaskKind
from distill_mtl.teachers.teacher import Teacher

_SHOWN = 12  # names of classes in a message
CAFFE = ((103.939, 116.779, 123.68), (1.0,) * 3)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

# Common alternatives: mean, std, and the value of white.
STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...], float]] = {
    "images in [0, 1], not normalised: mean 0, std 1": ((0.0,) * 3, (1.0,) * 3, 1.0),
    "images in [-1, 1]: mean 0.5, std 0.5": ((0.5,) * 3, (0.5,) * 3, 1.0),
    "ImageNet's mean 0.485 0.456 0.406 and std 0.229 0.224 0.225": (*IMAGENET, 1.0),
    "images in [0, 255], not normalised": ((0.0,) * 3, (1.0,) * 3, 255.0),
}


@dataclass(frozen=True)
class Candidate:
    """Another way to run a teacher.

    Attributes:
        cause: a clause that says what the teacher seems to expect.
        remedy: a sentence that says what to write in the recipe.
        teacher: with another input contract, or the same.
        order: int64 [classes], the logit of each class; None: logit i is class i.
    """

    cause: str
    remedy: str
    teacher: Teacher
    order: Tensor | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> logits."""
        logits = self.teacher(images).logits
        return logits if self.order is None else logits[:, self.order]


def candidates(teacher: Teacher, kind: TaskKind, task: str, batches: Sequence[Batch]) -> Iterator[Candidate]:
    """Every candidate that the teacher can run: pixels, then sizes, then the best order of its classes.

    Args:
        teacher: that scored too low.
        kind, task, batches: what it was measured on.
    """
    yield from pixel_candidates(teacher)
    height, width = batches[0].images.shape[2:]
    for expects, contract in _sizes(teacher.card.inputs, (height, width)):
        candidate = _candidate(teacher, expects, contract)
        if _runs(candidate, batches[0].images[:1]):
            yield candidate
    order = _class_order(teacher, kind, task, batches)
    if order is not None:
        yield _reordered(teacher, kind, order)


def pixel_candidates(teacher: Teacher) -> Iterator[Candidate]:
    """The same pixels as other numbers: normalisation, range, order of colours."""
    for expects, contract in _pixels(teacher.card.inputs):
        yield _candidate(teacher, expects, contract)


def _pixels(contract: InputContract) -> Iterator[tuple[str, InputContract]]:
    if contract.dtype != "uint8":  # uint8 pixels are never normalised
        for expects, (mean, std, white) in STATISTICS.items():
            if contract.channels == "grey":
                mean, std = (sum(mean) / 3,), (sum(std) / 3,)
            if contract.channels == "bgr":
                mean, std = mean[::-1], std[::-1]
            other = replace(contract, mean=mean, std=std, white=white)
            if other != contract:
                yield expects, other
    if contract.channels == "grey":
        return
    swapped = replace(contract, channels="rgb" if contract.channels == "bgr" else "bgr")
    turned = replace(swapped, mean=contract.mean[::-1], std=contract.std[::-1])
    yield "the colours in the opposite order (BGR for RGB)", swapped
    if turned != swapped:
        yield "the colours in the opposite order (BGR for RGB), mean and std as well", turned
    if contract.dtype != "uint8":
        caffe = replace(contract, channels="bgr", mean=CAFFE[0], std=CAFFE[1], white=255.0)
        yield "Caffe's pixels: BGR in [0, 255] less a mean", caffe
    if contract.channels != "grey3":
        yield "grey pictures in its three channels", replace(contract, channels="grey3")


def _sizes(contract: InputContract, view: tuple[int, int]) -> Iterator[tuple[str, InputContract]]:
    height, width = contract.size
    for size in dict.fromkeys(((height // 2, width // 2), (height * 2, width * 2), view)):
        if size != contract.size and min(size) > 0:
            yield f"pictures of {size[0]}x{size[1]} pixels", replace(contract, size=size)


def _candidate(teacher: Teacher, expects: str, contract: InputContract) -> Candidate:
    remedy = f"Give the teacher `input: {_changes(teacher.card.inputs, contract)}`."
    return Candidate(f"it expects {expects}", remedy, teacher.with_inputs(contract))


def _changes(contract: InputContract, other: InputContract) -> str:
    """The recipe's `input` that turns one contract into the other: `{channels: bgr}`."""
    changed: dict[str, Any] = {
        field.name: getattr(other, field.name)
        for field in fields(InputContract)
        if getattr(other, field.name) != getattr(contract, field.name)
    }
    if len(set(changed.get("size", (0, 1)))) == 1:
        changed["size"] = changed["size"][0]
    return "{" + ", ".join(f"{key}: {_yaml(value)}" for key, value in changed.items()) + "}"


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) else show(value)


@torch.no_grad()
def _runs(candidate: Candidate, image: Tensor) -> bool:
    try:
        candidate(image)
    # A foreign network may raise anything for a size that it does not take.
    except Exception:
        return False
    return True


def _reordered(teacher: Teacher, kind: TaskKind, order: Tensor) -> Candidate:
    """The candidate in which output `order[i]` stands for class i."""
    labels = teacher.card.labels
    names = [kind.classes[index] for index in order.argsort().tolist()]
    if labels.known is None and len(labels.outputs) == labels.width:
        names = [names[labels.outputs.index(output)] for output in range(labels.width)]
    shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    cause = f"its outputs stand for the classes in another order: {shown}"
    remedy = "Give the teacher its `classes` in this order, and the task its own in the order of the label numbers."
    return Candidate(cause, remedy, teacher, order)


@torch.no_grad()
def _class_order(teacher: Teacher, kind: TaskKind, task: str, batches: Sequence[Batch]) -> Tensor | None:
    """For each class of the task, the output that fits its labels best; None where that is the given order.

    The best one-to-one assignment between outputs and labels (Hungarian method) on the counts of both.
    """
    if not kind.exclusive:
        return None
    number = len(kind.classes)
    counts = torch.zeros(number, number, dtype=torch.int64)
    for batch in batches:
        labels = batch.labels[task]
        size = (labels.shape[-2], labels.shape[-1]) if kind.dense else tuple(batch.images.shape[2:])
        decided = kind.decode(teacher(batch.images).logits, (size[0], size[1])).get("label")
        if decided is None or decided.shape != labels.shape:
            return None
        counted = kind.label_counts(labels)[:number].to(labels.device) > 0
        valid = labels < number  # an ignored pixel has no class, or one that is not counted
        valid &= counted[labels.where(valid, 0)]
        pairs = labels[valid] * number + decided[valid]
        counts += torch.bincount(pairs.flatten(), minlength=number**2).view(number, number).cpu()
    _, order = linear_sum_assignment(counts.numpy(), maximize=True)
    order = torch.as_tensor(order)
    return None if torch.equal(order, torch.arange(number)) else order
