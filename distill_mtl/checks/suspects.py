"""Why a teacher does worse than it should: the usual suspects, tried one by one.

Each suspect is a way in which a network is commonly misread: other normalisation, other range, other
order of colours, other order of classes, an answer that depends on the rest of the batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from distill_mtl.checks.measure import Measured, measure
from distill_mtl.data.batch import Batch
from distill_mtl.networks.inputs import InputContract
from distill_mtl.tasks.base import TaskKind
from distill_mtl.teachers.teacher import Teacher

Answer = Callable[[Tensor], Tensor]

# What else a network may have been trained on: mean, std, and what white is.
STATISTICS = {
    "images in [0, 1], not normalised: mean 0, std 1": ((0.0,) * 3, (1.0,) * 3, 1.0),
    "images in [-1, 1]: mean 0.5, std 0.5": ((0.5,) * 3, (0.5,) * 3, 1.0),
    "ImageNet's mean 0.485 0.456 0.406 and std 0.229 0.224 0.225": (
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
        1.0,
    ),
    "images in [0, 255], not normalised": ((0.0,) * 3, (1.0,) * 3, 255.0),
}


@dataclass(frozen=True)
class Suspect:
    """A reading of the teacher that fits the labels.

    Attributes:
        what: a clause that says what it seems to expect.
        score: what it scores when read so.
    """

    what: str
    score: float


def find_suspect(
    teacher: Teacher,
    kind: TaskKind,
    task: str,
    batches: Sequence[Batch],
    measured: Measured,
    expected: float | None,
) -> Suspect | None:
    """The reading that lifts the teacher most, if it makes good most of what is missing.

    Four fifths where it is known what is missing, because the best order of classes lifts even a random
    head; half of what a perfect network would score where it is not.

    Args:
        teacher: that scored too low.
        kind, task, batches: what it was measured on.
        measured: what it scored.
        expected: what it should score, where somebody says.
    """
    sign = 1 if kind.higher_is_better else -1
    goal = sign * (expected if expected is not None else 100.0)
    missing = goal - sign * measured.score
    tried = [
        Suspect(what, measure(answer, kind, task, batches).score)
        for what, answer in _readings(teacher, kind, task, batches)
    ]
    best = max(tried, key=lambda suspect: sign * suspect.score)
    if goal - sign * best.score <= missing * (0.2 if expected is not None else 0.5):
        return best
    if _depends_on_batch(teacher, batches[0].images[:16]):
        return Suspect(
            "its answers depend on the other rows of the batch: a layer in train mode?", measured.score
        )
    return None


def _readings(
    teacher: Teacher, kind: TaskKind, task: str, batches: Sequence[Batch]
) -> Iterator[tuple[str, Answer]]:
    """Ways to read the teacher, each a function from images to logits."""
    contract = teacher.card.inputs
    for what, (mean, std, white) in STATISTICS.items():
        if contract.channels == "grey":
            other = replace(contract, mean=(sum(mean) / 3,), std=(sum(std) / 3,), white=white)
        else:
            other = replace(contract, mean=mean, std=std, white=white)
        if other != contract:
            yield f"it expects {what}", _answer(teacher, other)
    if contract.channels != "grey":
        swapped = replace(contract, channels="rgb" if contract.channels == "bgr" else "bgr")
        yield (
            "it expects the colours in the opposite order (BGR for RGB)",
            _answer(teacher, swapped),
        )
    order = _class_order(teacher, kind, task, batches)
    if order is not None:
        names = ", ".join(kind.classes[index] for index in order.argsort().tolist()[:10])
        yield (
            f"its outputs stand for the classes in another order: {names}",
            lambda images: teacher(images).logits[:, order],
        )


def _answer(teacher: Teacher, inputs: InputContract) -> Answer:
    return lambda images: teacher.answer(images, inputs)


@torch.no_grad()
def _class_order(teacher: Teacher, kind: TaskKind, task: str, batches: Sequence[Batch]) -> Tensor | None:
    """For each class of the task, the output that fits its labels best; None where that is the given order.

    The best one-to-one assignment between outputs and labels (Hungarian method) on the counts of both.
    """
    number = len(kind.classes)
    counts = torch.zeros(number, number, dtype=torch.int64)
    for batch in batches:
        labels = batch.labels[task]
        size = (
            (labels.shape[-2], labels.shape[-1])
            if kind.dense
            else (batch.images.shape[-2], batch.images.shape[-1])
        )
        decided = kind.decode(teacher(batch.images).logits, size).get("label")
        if decided is None or decided.shape != labels.shape:
            return None
        valid = labels != kind.ignore_index if kind.dense else torch.ones_like(labels, dtype=torch.bool)
        pairs = labels[valid] * number + decided[valid]
        counts += torch.bincount(pairs.flatten(), minlength=number**2).view(number, number).cpu()
    _, order = linear_sum_assignment(counts.numpy(), maximize=True)
    order = torch.as_tensor(order)
    return None if torch.equal(order, torch.arange(number)) else order


@torch.no_grad()
def _depends_on_batch(teacher: Teacher, images: Tensor) -> bool:
    together = teacher(images).logits
    alone = torch.cat([teacher(image[None]).logits for image in images])
    return bool((together - alone).abs().max() > 1e-2 * together.abs().max())
