"""How the outputs of a teacher are matched with the classes of its task."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from distill_mtl.errors import UserError

UNKNOWN = -1e4
"""Logit of a class that the teacher does not know: no softmax leaves anything of it, and fp16 holds it."""


@dataclass(frozen=True)
class LabelMap:
    """The output for each class.

    Attributes:
        classes: of the task, in its order.
        outputs: the teacher's outputs that are used, in the order of the classes that they stand for.
        known: positions of these classes in the task, ascending; None: all.
        width: number of the teacher's outputs for classes.
        rest: its further outputs, which follow them and stay.
    """

    classes: tuple[str, ...]
    outputs: tuple[int, ...]
    known: tuple[int, ...] | None
    width: int
    rest: int = 0

    def __call__(self, logits: Tensor) -> Tensor:
        """[R, width + rest, ...] in the teacher's order -> [R, classes + rest, ...] in the task's.

        `UNKNOWN` where it has no output for a class.
        """
        if self._chosen:
            logits = logits[:, [*self.outputs, *range(self.width, self.width + self.rest)]]
        if self.known is None:
            return logits
        count = len(self.classes)
        full = torch.full_like(logits[:, :1], UNKNOWN).repeat_interleave(count + self.rest, 1)
        full[:, [*self.known, *range(count, count + self.rest)]] = logits
        return full

    @property
    def own(self) -> list[str]:
        """The classes that are used, in the order of the teacher's outputs."""
        named = [self.classes[place] for place in self.known or range(len(self.classes))]
        return [name for _, name in sorted(zip(self.outputs, named, strict=True))]

    def alone(self) -> "LabelMap":
        """The map to the known classes alone, in the task's order."""
        if self.known is None:
            return self
        return replace(self, classes=tuple(self.classes[place] for place in self.known), known=None)

    @property
    def describe(self) -> str:
        """One clause for people; empty where outputs and classes are the same."""
        if self.known is not None:
            return f"knows {len(self.known)} of {len(self.classes)} classes"
        if len(self.outputs) < self.width:
            return f"{len(self.outputs)} of its {self.width} classes are used"
        return "its classes are put in the task's order" if self._chosen else ""

    @cached_property
    def _chosen(self) -> bool:
        """Whether the outputs are some of the teacher's, or in another order."""
        return self.outputs != tuple(range(self.width))


def match_classes(
    own: tuple[str, ...] | None,
    width: int,
    wanted: Sequence[str] | int | None,
    what: str,
    *,
    rest: int = 0,
    remedy: str = "Remove the task's `classes` to take the teacher's.",
    several: bool = False,
) -> LabelMap:
    """Compare a teacher's classes with its task's.

    Names decide: a teacher may know the task's classes in another order, more of them, or fewer. Where one
    side has no names, the numbers of classes must be equal and their order is assumed to be the same.

    Args:
        own: the teacher's names, in the order of its outputs; None: it has none.
        width: number of its outputs for classes.
        wanted: the task's names or their number; None: the teacher's own.
        what: the teacher, for messages.
        rest: of its outputs that stand for no class.
        remedy: what to do where they differ, for messages.
        several: the task has other teachers, so that each side may have classes that the other lacks.

    Raises:
        UserError: the two cannot be brought together.
    """
    if own is not None and len(own) != width:
        raise UserError(
            f"{what} has {width} outputs, and {len(own)} classes are named for them. Name each of them."
        )
    names = own or tuple(str(index) for index in range(width))
    straight = LabelMap(names, tuple(range(width)), None, width, rest)
    if wanted is None:
        return straight
    count = wanted if isinstance(wanted, int) else len(wanted)
    if isinstance(wanted, int) or own is None:
        if count != width:
            name = (
                ""
                if own is not None or not remedy
                else " If it knows some of them, name them in `teacher.classes`."
            )
            raise UserError(f"{what} says {width} classes, the recipe says {count}. {remedy}{name}")
        return straight if isinstance(wanted, int) else replace(straight, classes=tuple(wanted))
    # There may be a million of them, so each is looked up once.
    place = {name: index for index, name in reversed([*enumerate(own)])}
    known = [index for index, name in enumerate(wanted) if name in place]
    other = [name for name in wanted if name not in place]
    asked = set(wanted)
    beyond = [name for name in own if name not in asked]
    if not known and several:
        raise UserError(f"{what} knows none of the task's classes {_some(wanted)}: it has {_some(own)}.")
    if not known or (other and beyond and not several):
        raise UserError(
            f"{what} does not know the recipe's classes {_some(other)}, and the recipe not its classes "
            f"{_some(beyond)}. One side must name all of the other's. {remedy}"
        )
    outputs = tuple(place[wanted[index]] for index in known)
    return LabelMap(tuple(wanted), outputs, tuple(known) if other else None, width, rest)


def union_of(named: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The classes of several teachers, each once, in the order of the teachers.

    Args:
        named: a teacher, for messages -> its classes.

    Raises:
        UserError: two names differ in nothing but case, spaces or signs.
    """
    union = dict.fromkeys(name for names in named.values() for name in names)
    alike: dict[str, str] = {}
    for name in union:
        key = re.sub(r"[\W_]+", "", name).casefold() or name
        if key in alike:
            first, second = (
                next(who for who, names in named.items() if one in names) for one in (alike[key], name)
            )
            raise UserError(
                f"'{alike[key]}' of {first} and '{name}' of {second} are nearly the same name. If they are one class, "
                "give one teacher the other's name with `classes`; else name them apart."
            )
        alike[key] = name
    return tuple(union)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
