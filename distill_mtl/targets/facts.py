"""The teachers of a recipe, and the facts about them that cached answers need.

`Teachers` keeps the networks closed as long as facts will do. Every sidecar carries the facts of its teacher as
JSON, so that a cache is complete in itself.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Any

import torch

from distill_mtl.networks.features import FeatureShape
from distill_mtl.reading import loads
from distill_mtl.recipe.schema import task_of
from distill_mtl.teachers.card import TeacherCard
from distill_mtl.teachers.shared_trunks import share_trunks
from distill_mtl.teachers.teacher import Teacher


@dataclass(frozen=True)
class TeacherFacts:
    """A teacher without its network.

    Attributes:
        card: of the teacher.
        logits: shape of one row's logits, (classes,) or (classes, h, w).
        measured: what was measured of its answers to decide an `auto` of the recipe, by name, as JSON has it; a cached
            run decides by it without the network.
    """

    card: TeacherCard
    logits: tuple[int, ...]
    measured: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def layers(self) -> Mapping[str, FeatureShape]:
        """The hidden features that it gives, with their shapes."""
        return self.card.shapes

    @cached_property
    def json(self) -> str:
        """One line; `from_json` reads it."""
        entry = {"card": self.card.to_dict(), "logits": self.logits, "measured": self.measured}
        return json.dumps(entry, sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "TeacherFacts":
        """The inverse of `json`. Raises ValueError for anything else."""
        entry: dict[str, Any] = loads(text)
        try:
            return cls(
                TeacherCard.from_dict(entry["card"]), tuple(entry["logits"]), dict(entry.get("measured", {}))
            )
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise ValueError(f"these are no facts of a teacher ({error!r})") from error


class Teachers(Mapping[str, Teacher]):
    """Name -> teacher: the task's, or TASK/1, TASK/2 of one with several (`recipe.schema.teacher_keys`).

    Looking one up loads all of them; their cards and facts are known before.

    Args:
        load: task -> function that loads its teacher.
        facts: of every teacher, from a cache; None loads the teachers now.
    """

    def __init__(
        self, load: Mapping[str, Callable[[], Teacher]], facts: Mapping[str, TeacherFacts] | None = None
    ) -> None:
        self._load, self._facts = dict(load), facts
        self._measured: dict[str, dict[str, Any]] = {
            task: dict(facts[task].measured) if facts is not None else {} for task in load
        }
        self.cards: dict[str, TeacherCard] = (
            {task: teacher.card for task, teacher in self._loaded.items()}
            if facts is None
            else {task: facts[task].card for task in load}
        )

    def of(self, task: str) -> list[str]:
        """The names of a task's teachers, in the order of the recipe."""
        return [name for name in self._load if task_of(name) == task]

    def facts(self, task: str) -> TeacherFacts:
        """What must be known of a teacher to use its cached answers."""
        facts = facts_of(self[task]) if self._facts is None else self._facts[task]
        return replace(facts, measured=self._measured[task])

    def measured(self, task: str, what: str) -> Any:
        """What was measured of a teacher under this name, now or when its answers were cached; None: nothing."""
        return self._measured[task].get(what)

    def note(self, task: str, what: str, value: Any) -> None:
        """Keep what was measured of a teacher, as JSON can hold it."""
        self._measured[task][what] = value

    def __getitem__(self, task: str) -> Teacher:
        return self._loaded[task]

    def __contains__(self, task: object) -> bool:
        return task in self._load

    def __iter__(self) -> Iterator[str]:
        return iter(self._load)

    def __len__(self) -> int:
        return len(self._load)

    @cached_property
    def _loaded(self) -> dict[str, Teacher]:
        teachers = {task: load() for task, load in self._load.items()}
        share_trunks(teachers.values())
        return teachers


def facts_of(teacher: Teacher) -> TeacherFacts:
    """The facts of a loaded teacher; shows it one black image to find the shape of its logits."""
    held = chain(teacher.parameters(), teacher.buffers())
    device = next((tensor.device for tensor in held), torch.device("cpu"))
    output = teacher(torch.zeros(1, 3, *teacher.card.inputs.size, device=device))
    return TeacherFacts(teacher.card, tuple(output.logits.shape[1:]))
