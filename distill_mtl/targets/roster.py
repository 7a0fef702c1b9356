"""The teachers of a recipe, whose networks stay closed as long as their cached answers will do."""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property

from distill_mtl.targets.facts import TeacherFacts, facts_of
from distill_mtl.teachers.card import TeacherCard
from distill_mtl.teachers.sharing import share_trunks
from distill_mtl.teachers.teacher import Teacher


class Roster(Mapping[str, Teacher]):
    """task -> teacher. Looking one up loads all of them; their cards and facts are known before.

    Args:
        load: task -> function that loads its teacher.
        facts: of every teacher, from a cache; None loads the teachers now.
    """

    def __init__(
        self, load: Mapping[str, Callable[[], Teacher]], facts: Mapping[str, TeacherFacts] | None = None
    ) -> None:
        self._load, self._facts = dict(load), facts
        self.cards: dict[str, TeacherCard] = (
            {task: teacher.card for task, teacher in self._loaded.items()}
            if facts is None
            else {task: facts[task].card for task in load}
        )

    def facts(self, task: str) -> TeacherFacts:
        """What must be known of a teacher to use its cached answers."""
        return facts_of(self[task]) if self._facts is None else self._facts[task]

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
