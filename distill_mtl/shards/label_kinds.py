"""The labels that shards may hold: which kind of task each belongs to, and with which classes and options it is read.

A label is what its kind of task says (`LabelForm`). Every label is read by its kind before it is written, so that a
mistake is found now and not in the middle of training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from distill_mtl.errors import ShardError, nearest
from distill_mtl.tasks.base import KINDS, TaskKind, build_kind, import_kind, kinds_by_member

_OTHER_CLASS = "(another class)"


@dataclass(frozen=True)
class Label:
    """One label that every row has.

    Attributes:
        member: file ending in the shard.
        task: the name that a recipe may give it.
        kind: reads, checks and counts it.
        classes: names of its classes, attributes or values; their number where the rows hold class numbers; None
            where the kind has its own, or only the labels of all rows say how many there are.
        options: of the kind, that are not its defaults.
    """

    member: str
    task: str
    kind: TaskKind
    classes: tuple[str, ...] | int | None
    options: Mapping[str, Any]

    def named(self) -> str:
        """The member and how it is read, for people: `seg.png (segmentation, ignore_index 255)`."""
        described = self.kind.describe()
        options = (f", {name} {described[name]}" for name in self.kind.label_options if name in described)
        return f"{self.member} ({self.kind.name}{''.join(options)})"


class FoundLabel(NamedTuple):
    """A label as an origin finds it.

    Attributes:
        member: file ending in the shard.
        task: the name that a recipe may give it.
        classes: as in `Label`.
        options: of its kind, that its labels need to make sense.
    """

    member: str
    task: str
    classes: tuple[str, ...] | int | None = None
    options: Mapping[str, Any] = {}


class LabelKinds:
    """The kinds of task by the members of their labels.

    Args:
        kinds: a user's own, `module:Class`, which come before built-in ones with the same member.
        trust: whether their code may run.
        options: of the labels' kinds, by name: those in `label_options`.

    Raises:
        UserError: a kind is not trusted or is none.
    """

    def __init__(
        self, kinds: Sequence[str] = (), *, trust: bool = False, options: Mapping[str, Any] | None = None
    ) -> None:
        for kind in kinds:
            import_kind(kind, trust=trust, say="--trust")
        owners = {member: names[0] for member, names in kinds_by_member().items()}
        own = {ending: kind for kind in kinds for ending in KINDS[kind].endings()}
        self._owners = owners | own
        self._options = dict(options or {})

    def __getitem__(self, member: str) -> type[TaskKind]:
        """The kind whose label a member is.

        Raises:
            ShardError: no kind has such a label.
        """
        if member not in self._owners:
            raise ShardError(
                f"no kind of task has a label {member}.{nearest(member, self._owners)} Known: "
                f"{', '.join(self._owners)}. The label of a kind of your own is known with --kind module:Class."
            )
        return KINDS[self._owners[member]]

    def pairable(self) -> list[str]:
        """The members that are files of their own: masks, depth maps, normals."""
        return [member for member in self._owners if self[member].from_table == "file"]

    def build(self, found: Sequence[FoundLabel]) -> list[Label]:
        """The labels with their kinds.

        Raises:
            UserError: an option that none of the kinds has, or a value that a kind refuses.
        """
        known = sorted({option for label in found for option in self[label.member].label_options})
        for option in self._options:
            if option not in known:
                raise ShardError(
                    f"--option {option}: no label of these rows has it.{nearest(option, known)} Known: "
                    f"{', '.join(known) or 'none'}."
                )
        return [self._build(label) for label in found]

    def _build(self, found: FoundLabel) -> Label:
        kind = self[found.member]
        given = {name: value for name, value in self._options.items() if name in kind.label_options}
        options = {**found.options, **given}
        classes = found.classes
        if classes is None:
            names = tuple(map(str, range(kind.open_classes)))  # none for a kind with classes of its own
        else:
            names = classes if isinstance(classes, tuple) else tuple(map(str, range(classes)))
            if len(names) < kind.fewest_classes:  # too few for a task; its rows may become a part of one
                names = (*names, _OTHER_CLASS)
        return Label(found.member, found.task, build_kind(kind.name, names, **options), classes, options)
