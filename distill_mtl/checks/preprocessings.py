"""Common mistakes in a teacher's preprocessing: normalisation, range, colours, size, and the order of its classes.

Each candidate runs the same teacher in another way; `diagnoses` tries them for every teacher.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from distill_mtl.data.batch import Batch
from distill_mtl.networks.box_network import BoxNetwork
from distill_mtl.networks.inputs import InputContract, Preprocess
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
    "CLIP's mean 0.481 0.458 0.408 and std 0.269 0.261 0.276": (
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
        1.0,
    ),
    "CIFAR-10's mean 0.491 0.482 0.447 and std 0.247 0.243 0.262": (
        (0.4914, 0.4822, 0.4465),
        (0.247, 0.2435, 0.2616),
        1.0,
    ),
    "CIFAR-100's mean 0.507 0.487 0.441 and std 0.267 0.256 0.276": (
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
        1.0,
    ),
    "MNIST's mean 0.1307 and std 0.3081": ((0.1307,) * 3, (0.3081,) * 3, 1.0),
    "Fashion-MNIST's mean 0.2860 and std 0.3530": ((0.286,) * 3, (0.353,) * 3, 1.0),
    "SVHN's mean 0.4377 0.4438 0.4728 and std 0.1980 0.2010 0.1970": (
        (0.4377, 0.4438, 0.4728),
        (0.198, 0.201, 0.197),
        1.0,
    ),
}
_SIDES = (16, 24, 28, 32, 48, 64, 96, 128, 160, 192, 224, 256, 299, 320, 384)
"""Sides in pixels that networks are trained with."""
_FARTHEST = 6
"""How many times larger or smaller another size may be."""


@dataclass(frozen=True)
class Candidate:
    """Another way to run a teacher.

    Attributes:
        cause: a clause that says what the teacher seems to expect.
        remedy: a sentence that says what to write in the recipe.
        teacher: with another input contract, or the same.
        order: int64 [classes], the logit of each class; None: logit i is class i.
        reading: its boxes are read in another way.
    """

    cause: str
    remedy: str
    teacher: Teacher
    order: Tensor | None = None
    reading: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> logits."""
        logits = self.teacher(images).logits
        return logits if self.order is None else logits[:, self.order]


def candidates(teacher: Teacher, batches: Sequence[Batch], *, far: bool = True) -> Iterator[Candidate]:
    """Every candidate for the boxes and pixels that the teacher can run, the commonest mistakes first: what the numbers
    of boxes mean, then numbers of pixels, then sizes.

    Args:
        teacher: to be run in other ways.
        batches: that it is measured on.
        far: sizes more than twice its own, and the view's, too.
    """
    yield from _readings(teacher)
    for expects, contract in _pixels(teacher.card.inputs):
        yield _candidate(teacher, expects, contract)
    height, width = batches[0].images.shape[2:]
    most = max(2 * teacher.card.inputs.size[0], height)
    for expects, contract in _sizes(teacher.card.inputs, (height, width)):
        if not far and contract.size[0] > most:
            continue
        candidate = _running(teacher, expects, contract, batches[0].images[:1])
        if candidate is not None:
            yield candidate
    for contract in _own_statistics(teacher.card.inputs, batches):
        yield _candidate(teacher, "the mean and std of your own pictures", contract)


def _readings(teacher: Teacher) -> Iterator[Candidate]:
    """A detector's boxes, read in other ways."""
    if isinstance(teacher.network, BoxNetwork):
        for cause, keys, reading in teacher.network.reading.others():
            twin = teacher.with_network(teacher.network.with_reading(reading))
            yield Candidate(cause, f"Give the teacher `output: {{{keys}}}`.", twin, reading=True)


def _pixels(contract: InputContract) -> Iterator[tuple[str, InputContract]]:
    """The same pixels as other numbers: normalisation, range, order of colours."""
    usual = list(STATISTICS.items())
    for expects, statistics in usual[:4] if contract.dtype != "uint8" else ():
        yield from _normalised(contract, expects, *statistics)
    if contract.channels != "grey":
        yield from _recoloured(contract)
    for expects, statistics in usual[4:] if contract.dtype != "uint8" else ():
        yield from _normalised(contract, expects, *statistics)


def _normalised(
    contract: InputContract, expects: str, mean: tuple[float, ...], std: tuple[float, ...], white: float
) -> Iterator[tuple[str, InputContract]]:
    """Another normalisation, given for RGB; nothing where it is the same."""
    if contract.channels == "grey":
        mean, std = (sum(mean) / 3,), (sum(std) / 3,)
    if contract.channels == "bgr":
        mean, std = mean[::-1], std[::-1]
    other = replace(contract, mean=mean, std=std, white=white)
    if other != contract:
        yield expects, other


def _recoloured(contract: InputContract) -> Iterator[tuple[str, InputContract]]:
    """Another order of the three colours, or none."""
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


def _own_statistics(contract: InputContract, batches: Sequence[Batch]) -> Iterator[InputContract]:
    """Mean and std of the pictures in the network's own channels; nothing for pictures of one colour."""
    if contract.dtype == "uint8":
        return
    raw = replace(contract, mean=(0.0,) * contract.depth, std=(1.0,) * contract.depth, white=1.0)
    raw = replace(raw, layout="nchw", dtype="float32")
    read = Preprocess(raw).to(batches[0].images.device)
    pixels = torch.cat([read(batch.images).movedim(1, -1).flatten(0, 2) for batch in batches])
    mean, std = (
        tuple(round(value, 3) for value in each.tolist()) for each in (pixels.mean(0), pixels.std(0))
    )
    if min(std) > 0:
        yield replace(contract, mean=mean, std=std, white=1.0)


def _sizes(contract: InputContract, view: tuple[int, int]) -> Iterator[tuple[str, InputContract]]:
    """The view's own size, half and double, then the usual sides that are not too far."""
    height, width = contract.size
    near = [(height // 2, width // 2), (height * 2, width * 2), view]
    usual = [
        (side, side)
        for side in _SIDES
        if height == width and height / _FARTHEST <= side <= height * _FARTHEST
    ]
    for size in dict.fromkeys((*near, *usual)):
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
def _running(teacher: Teacher, expects: str, contract: InputContract, image: Tensor) -> Candidate | None:
    """The candidate; None where the network does not take such pictures."""
    try:
        candidate = _candidate(teacher, expects, contract)
        candidate(image)
    # A foreign network may raise anything for a size that it does not take.
    except Exception:
        return None
    return candidate


def reordered(teacher: Teacher, kind: TaskKind, order: Tensor) -> Candidate:
    """The candidate in which output `order[i]` stands for class i."""
    labels = teacher.card.labels
    names = [kind.classes[index] for index in order.argsort().tolist()]
    if labels.known is None and len(labels.outputs) == labels.width:
        place = {output: index for index, output in enumerate(labels.outputs)}
        names = [names[place[output]] for output in range(labels.width)]
    shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    cause = f"its outputs stand for the classes in another order: {shown}"
    remedy = "Give the teacher its `classes` in this order, and the task its own in the order of the label numbers."
    return Candidate(cause, remedy, teacher, order)


@torch.no_grad()
def class_order(teacher: Teacher, kind: TaskKind, task: str, batches: Sequence[Batch]) -> Tensor | None:
    """For each class of the task, the output that fits its labels best; None where that is the given order."""
    if not kind.exclusive:
        return None
    counted = [
        confusion(kind, teacher(batch.images).logits, batch.labels[task], batch.images) for batch in batches
    ]
    found = [counts for counts in counted if counts is not None]
    return best_order(torch.stack(found).sum(0)) if found else None


def confusion(kind: TaskKind, logits: Tensor, labels: Tensor, images: Tensor) -> Tensor | None:
    """int64 [classes, classes]: how often a label (row) was answered with a class (column).

    None for a kind whose answer is not one class where the label is one.
    """
    number = len(kind.classes)
    size = (labels.shape[-2], labels.shape[-1]) if kind.dense else tuple(images.shape[2:])
    decided = kind.decode(logits, (size[0], size[1])).get("label")
    if decided is None or decided.shape != labels.shape:
        return None
    counted = kind.label_counts(labels)[:number].to(labels.device) > 0
    valid = labels < number  # an ignored pixel has no class, or one that is not counted
    valid &= counted[labels.where(valid, 0)]
    pairs = labels[valid] * number + decided[valid]
    return torch.bincount(pairs.flatten(), minlength=number**2).view(number, number).cpu()


def best_order(counts: Tensor) -> Tensor | None:
    """The one-to-one assignment of outputs to labels with most right answers (Hungarian method); None: as they are.

    Classes that the counts say nothing about stay where they are.
    """
    from scipy.optimize import linear_sum_assignment  # most commands do without its import

    as_they_are = torch.eye(len(counts), dtype=torch.float64) / 2
    _, order = linear_sum_assignment((counts + as_they_are).numpy(), maximize=True)
    order = torch.as_tensor(order)
    return None if torch.equal(order, torch.arange(len(counts))) else order
