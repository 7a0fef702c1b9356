"""Several teachers of one task: those that know the same classes are one, an ensemble.

`TargetProviders` asks them together and gives the student one target for each ensemble, whose terms do not know how
many teachers answered. The evaluation compares the student with the same ensembles.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distill_mtl.recipe.schema import TaskSection
from distill_mtl.tasks.base import TaskKind
from distill_mtl.teachers.card import TeacherCard
from distill_mtl.teachers.teacher import TeacherOutput, named_hidden

KnownClasses = tuple[int, ...] | None


@dataclass(frozen=True)
class Ensemble:
    """Teachers of one task that know the same classes.

    Attributes:
        kind: of the task.
        names: of the teachers.
        known: positions of the classes that they know; None: all.
        weights: of the teachers, above 0.
        surest: for each row the surest answer counts alone.
    """

    kind: TaskKind
    names: tuple[str, ...]
    known: KnownClasses
    weights: tuple[float, ...]
    surest: bool = False

    @property
    def loudness(self) -> Tensor:
        """float [M]: the weight of each teacher's answer beside those of the task's other teachers.

        Where classes are decided one by one, a teacher counts once for each class, so that classes weigh alike.
        """
        count = 1 if self.kind.exclusive else len(self.known or self.kind.classes)
        return torch.tensor(self.weights) * count

    def together(
        self, outputs: Sequence[TeacherOutput], loudness: Tensor, temperature: float
    ) -> TeacherOutput:
        """Their answers as one, with the hidden layers of all.

        Args:
            outputs: of each teacher, for the same R rows.
            loudness: float [M, R], of each answer, at least one of a row above 0.
            temperature: at which answers are averaged.
        """
        hidden = {
            layer: feature
            for name, output in zip(self.names, outputs, strict=True)
            for layer, feature in named_hidden(name, output).hidden.items()
        }
        return TeacherOutput(
            self.average([output.logits for output in outputs], loudness, temperature), hidden
        )

    def average(self, answers: Sequence[Tensor], loudness: Tensor, temperature: float) -> Tensor:
        """The logits of the answers together; arguments as in `together`."""
        if len(answers) == 1:
            return answers[0]
        loudness = loudness.to(answers[0].device, non_blocking=True)
        if self.surest:
            sureness = torch.stack([self._sureness(answer) for answer in answers])
            best = sureness.masked_fill(loudness <= 0, -torch.inf).argmax(0)
            shares = torch.zeros_like(loudness).scatter_(0, best[None], 1.0)
        else:
            shares = loudness / loudness.sum(0)
        return self.kind.average(answers, shares, temperature)

    def _sureness(self, answer: Tensor) -> Tensor:
        found = self.kind.sureness(answer)
        assert found is not None, "the recipe was checked"
        return found


def ensembles_of(section: TaskSection, kind: TaskKind, cards: Mapping[str, TeacherCard]) -> list[Ensemble]:
    """The ensembles of a task, in the order of their first teachers.

    Args:
        section: of the recipe, whose weights are settled.
        kind: of the task.
        cards: of its teachers, by name.
    """
    given = section.combine if isinstance(section.combine, list) else [1.0] * len(cards)
    groups: dict[KnownClasses, list[tuple[str, float]]] = {}
    for (name, card), weight in zip(cards.items(), given, strict=True):
        groups.setdefault(card.known, []).append((name, weight))
    return [
        Ensemble(
            kind,
            tuple(name for name, _ in members),
            known,
            tuple(weight for _, weight in members),
            section.combine == "surest",
        )
        for known, members in groups.items()
    ]
