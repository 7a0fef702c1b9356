"""A task as a network sees it that knows some of its classes only.

The loss on such a teacher's answers, its check, and its comparison with the student are those of a smaller task of the
same kind. `class_view` makes it, with the way from the whole task's answers and labels to those of the smaller one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from distill_mtl.errors import UserError
from distill_mtl.tasks.base import TaskKind, build_kind


@dataclass(frozen=True)
class ClassView:
    """Some classes of a task.

    Where classes exclude each other and one of those known is a background, it means "none of the others that are
    known". So the student's background is all that the network does not know (Cermelli et al. 2020, arXiv:2002.00718,
    section 3.2). Without a background the network speaks of the ratios between its classes alone.

    Attributes:
        kind: of the smaller task.
        whole: the kind of the whole task.
        known: positions of the classes in the whole task, ascending.
    """

    kind: TaskKind
    whole: TaskKind
    known: tuple[int, ...]

    def of_teacher(self, logits: Tensor) -> Tensor:
        """Answers for all classes [R, outputs, ...] of a network that knows these -> [R, outputs of `kind`, ...]."""
        return logits[:, self._channels]

    def of_student(self, logits: Tensor, temperature: float | None = None) -> Tensor:
        """Answers of a network that knows all classes, as answers for these.

        Args:
            logits: [R, outputs, ...].
            temperature: at which the softmax of the result is the sum of the probabilities of what is merged into the
                background; None: for decisions, so that the background wins where one of its classes does.
        """
        chosen = logits[:, self._channels]
        ground: int | None = getattr(self.whole, "background", None)
        if not self.whole.exclusive or ground not in self.known:
            return chosen
        rest = [place for place in range(len(self.whole.classes)) if place not in self.known]
        merged = logits[:, [ground, *rest]].float()
        one = merged.amax(1) if temperature is None else (merged / temperature).logsumexp(1) * temperature
        place = self.known.index(ground)
        chosen = chosen.float()
        return torch.cat([chosen[:, :place], one.unsqueeze(1), chosen[:, place + 1 :]], 1)

    def labels(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Labels of the whole task as labels of the smaller one, and bool [R]: those that say something."""
        if self.kind is self.whole:
            return labels, torch.ones(len(labels), dtype=torch.bool, device=labels.device)
        return self.whole.labels_of_classes(labels, self.known)

    @property
    def _channels(self) -> list[int]:
        return [*self.known, *range(len(self.whole.classes), self.whole.outputs)]


@lru_cache(maxsize=256)
def class_view(kind: TaskKind, known: tuple[int, ...] | None) -> ClassView:
    """The view of a task through what a network knows of it.

    Args:
        kind: of the whole task.
        known: positions of the classes, ascending; None: all, so that the smaller task is the whole one.

    Raises:
        UserError: the kind makes no sense for so few classes.
    """
    if known is None:
        return ClassView(kind, kind, tuple(range(len(kind.classes))))
    classes = [kind.classes[place] for place in known]
    entry = {key: value for key, value in kind.describe().items() if key != "classes"}
    entry["mirrored"] = [pair for pair in entry.get("mirrored", ()) if set(pair) <= set(classes)]
    if not entry["mirrored"]:
        del entry["mirrored"]
    if entry.get("background") not in classes:
        entry.pop("background", None)
    return ClassView(_built(entry, classes), kind, known)


def _built(entry: dict[str, Any], classes: Sequence[str]) -> TaskKind:
    try:
        return build_kind(classes=classes, **entry)
    except UserError:  # a metric that needs more classes
        return build_kind(classes=classes, **{**entry, "metric": None})
