"""Where a student and its teachers differ on pictures without labels, and their statistics on those with some.

Pictures are seen as in evaluation: the plain view in the size that all networks share, in 8 bits.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill_mtl.errors import UserError, a_few
from distill_mtl.evaluation.evaluation_set import Student, Teacher
from distill_mtl.evaluation.row_statistics import examined, known_classes, logits_in, refuse_nan
from distill_mtl.geometry.views import Resize, Size, View, plain_view
from distill_mtl.prediction.named_pictures import Picture
from distill_mtl.prediction.predictions import Unread, read_ahead
from distill_mtl.tasks.base import TaskKind

Ticker = Callable[[int], None]


@dataclass(frozen=True)
class Compared:
    """A student, its teachers, and how they see pictures.

    Attributes:
        student: on the device.
        teachers: by task, on the same device.
        kinds: of these tasks.
        size: height and width of what all networks are shown.
        resize: how a picture of another shape is fitted to it.
        batch_size: pictures that run together.
        device: where the networks are.
    """

    student: Student
    teachers: Mapping[str, Teacher]
    kinds: Mapping[str, TaskKind]
    size: Size
    resize: Resize
    batch_size: int
    device: torch.device | str = "cpu"

    def view(self, picture: Size) -> View:
        """What the networks see of a picture of this height and width."""
        return plain_view(picture, self.size, self.resize)

    @torch.no_grad()
    def answers(self, images: Sequence[Tensor], keys: Sequence[str], task: str) -> tuple[Tensor, Tensor]:
        """Logits of the student and of a task's teacher for pictures uint8 [3, H, W] of any sizes."""
        pixels = self._pixels(images)
        return self._pair(self.student(pixels), pixels, keys, task)

    @torch.no_grad()
    def all_answers(
        self, images: Sequence[Tensor], keys: Sequence[str]
    ) -> Iterator[tuple[str, Tensor, Tensor]]:
        """The same for each task in turn; the student runs once."""
        pixels = self._pixels(images)
        answered = self.student(pixels)
        for task in self.kinds:
            yield (task, *self._pair(answered, pixels, keys, task))

    def _pixels(self, images: Sequence[Tensor]) -> Tensor:
        seen = [self.view((image.shape[1], image.shape[2])).image(image, self.size) for image in images]
        return torch.stack(seen).to(self.device).float() / 255

    def _pair(
        self, answered: Mapping[str, Tensor], pixels: Tensor, keys: Sequence[str], task: str
    ) -> tuple[Tensor, Tensor]:
        student, teacher = logits_in(answered[task]), self.teachers[task](pixels).logits
        refuse_nan("student", task, student, keys)
        refuse_nan("teacher", task, teacher, keys)
        return student, teacher


@dataclass
class Disagreement:
    """How a student and a teacher differ on N pictures.

    Attributes:
        agreement: [N], as the kind measures it.
        differ: bool [N], where one of them alone can be right; nothing where each picture may matter.
        sizes: [N], a guess of how much each picture can change the difference of scores: by how much the scores of
            the picture alone differ if the one or the other is right.
        student, teacher: sums of statistics over the pictures, with the teacher's answer in the label's place; None
            where they cannot be had.
    """

    agreement: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    differ: NDArray[np.bool_] | None = None
    sizes: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    student: Tensor | None = None
    teacher: Tensor | None = None


class _Collector:
    """Collects the disagreement of one task, batch by batch."""

    def __init__(self, task: str, kind: TaskKind, teacher: Teacher) -> None:
        self._task, self._kind, self._known = task, kind, known_classes(teacher)
        self._agreement = list[Tensor]()
        self._differ, self._sizes = list[Tensor](), list[Tensor]()
        self._totals: list[Tensor] | None = None
        self._labels_can_be_made = True

    def add(self, logits: Tensor, target: Tensor, size: Size) -> None:
        kind = self._kind
        compared = slice(None) if self._known is None or kind.exclusive else list(self._known)
        agreement = kind.agreement(logits[:, compared], target[:, compared])
        self._agreement.append(agreement)
        differ = kind.may_differ(logits, target)
        if differ is not None:
            self._differ.append(differ)
            return
        made = [self._labels(answer, size) for answer in (target, logits)]
        if made[0] is None or made[1] is None:
            self._labels_can_be_made = False
            self._sizes.append(1 - agreement)
            return
        largest = torch.zeros(len(logits), dtype=torch.float64)
        for place, labels in enumerate(made):
            assert labels is not None
            pair = [kind.statistics(answer, labels.to(answer.device)) for answer in (logits, target)]
            apart = kind.row_scores(pair[0]) - kind.row_scores(pair[1])
            largest = torch.maximum(largest, apart.abs().nan_to_num(0.0, 0.0, 0.0))
            if place == 0 and kind.additive:
                sums = [each.sum(0) for each in pair]
                before = self._totals or [torch.zeros_like(each) for each in sums]
                self._totals = [old + new for old, new in zip(before, sums, strict=True)]
        self._sizes.append(largest)

    def found(self) -> Disagreement:
        agreement = torch.cat(self._agreement).numpy()
        if self._differ:
            return Disagreement(agreement, torch.cat(self._differ).numpy())
        totals = self._totals if self._labels_can_be_made else None
        student, teacher = totals or (None, None)
        return Disagreement(agreement, None, torch.cat(self._sizes).numpy(), student, teacher)

    def _labels(self, logits: Tensor, size: Size) -> Tensor | None:
        """Answers as labels [R, ...] of the view; None: answers of this kind cannot be written as labels."""
        try:
            labels = answered_labels(self._kind, logits, size)
        except (UserError, ValueError):
            return None
        return labels if self._known is None else self._kind.keep_known_classes(labels, self._known)


def answered_labels(kind: TaskKind, logits: Tensor, size: Size) -> Tensor:
    """Answers [R, C, ...] as if they were right: labels [R, ...] of views of this size, by what the kind writes.

    Raises:
        UserError, ValueError: the kind does not write its answers as labels, or does not read these.
    """
    decoded = kind.decode(logits, size)
    whole, labels = View(0, 0, *size), []
    for row in range(len(logits)):
        _, payload = kind.write_label({name: each[row].cpu() for name, each in decoded.items()})
        labels.append(kind.transform_label(kind.read_label(payload), whole, size, size))
    return torch.stack(labels)


def disagreements(
    compared: Compared, pictures: Sequence[Picture], tick: Ticker = lambda done: None
) -> tuple[dict[str, Disagreement], list[int], list[Unread]]:
    """Run all networks over pictures without labels.

    Args:
        compared: the networks.
        pictures: to be read.
        tick: called with the number of pictures done.

    Returns:
        By task; the positions of the pictures that could be read, to which the arrays belong; the others.

    Raises:
        UserError: an answer is not a number, or no picture can be read.
    """
    collectors = {
        task: _Collector(task, kind, compared.teachers[task]) for task, kind in compared.kinds.items()
    }
    there, unread, done = list[int](), list[Unread](), 0
    named = iter(enumerate(pictures))
    with examined(compared.student):
        for read in read_ahead(pictures, compared.batch_size):
            images, keys = [], []
            for image, (place, picture) in zip(read, islice(named, len(read)), strict=True):
                if isinstance(image, str):
                    unread.append(Unread(picture.key, picture.place, image))
                else:
                    images.append(image)
                    keys.append(picture.key)
                    there.append(place)
            if images:
                for task, logits, target in compared.all_answers(images, keys):
                    collectors[task].add(logits, target, compared.size)
            done += len(read)
            tick(done)
    if not there:
        reasons = a_few([f"{each.place}: {each.reason}" for each in unread], 3)
        raise UserError(f"none of the {len(pictures):,} pictures can be read: {reasons}.")
    return {task: each.found() for task, each in collectors.items()}, there, unread


@dataclass(frozen=True)
class LabelledPicture:
    """A picture and what a person says of it.

    Attributes:
        row: its name.
        image: uint8 [3, H, W].
        label: as the kind's `read_label` gives it.
    """

    row: str
    image: Tensor
    label: Tensor


class Measured(NamedTuple):
    """Statistics of some pictures, float64 [R, K], of student and teacher.

    Attributes:
        labelled: with the labels.
        guessed: with the teacher's answers in the labels' place; None: not asked for.
    """

    labelled: tuple[Tensor, Tensor]
    guessed: tuple[Tensor, Tensor] | None


def labelled_statistics(
    compared: Compared, task: str, rows: Sequence[LabelledPicture], *, with_proxies: bool
) -> Measured:
    """Statistics of student and teacher on labelled pictures, which are read as the set was.

    Args:
        compared: the networks.
        task: whose labels these are.
        rows: at least one.
        with_proxies: also those with the teacher's answer in the label's place.
    """
    kind, known = compared.kinds[task], known_classes(compared.teachers[task])
    found: list[list[Tensor]] = [[], [], [], []]
    with examined(compared.student):
        for first in range(0, len(rows), compared.batch_size):
            some = rows[first : first + compared.batch_size]
            logits, target = compared.answers(
                [each.image for each in some], [each.row for each in some], task
            )
            labels = [torch.stack([_seen_label(kind, each, compared) for each in some])]
            if with_proxies:
                labels.append(answered_labels(kind, target, compared.size))
            for place, each in enumerate(labels):
                each = each if known is None else kind.keep_known_classes(each, known)
                for network, answer in enumerate((logits, target)):
                    found[2 * place + network].append(kind.statistics(answer, each.to(answer.device)))
    student, teacher, *guessed = (torch.cat(parts) for parts in found if parts)
    return Measured((student, teacher), (guessed[0], guessed[1]) if with_proxies else None)


def _seen_label(kind: TaskKind, row: LabelledPicture, compared: Compared) -> Tensor:
    picture = (row.image.shape[1], row.image.shape[2])
    return kind.transform_label(row.label, compared.view(picture), picture, compared.size)
