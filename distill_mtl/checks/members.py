"""Find the members of shards that hold a task's labels and the pictures, by reading some rows (`init`)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distill_mtl.data.decode import read_image
from distill_mtl.data.index import ShardIndex
from distill_mtl.data.open_files import OpenFiles
from distill_mtl.data.row_table import member_column
from distill_mtl.errors import ShardError
from distill_mtl.recipe.schema import SourceSection
from distill_mtl.tasks.base import TaskKind, kinds_by_member

IMAGES: str = SourceSection.model_fields["image"].default
_ROWS_TRIED = 16
_NO_LABEL = ("group",)
_LONGEST_REASON = 100


@dataclass(frozen=True)
class Member:
    """A member of the shards, and the reason for choosing it."""

    ending: str
    why: str


def find_label(indexes: Sequence[ShardIndex], kind: TaskKind, task: str, place: str) -> Member:
    """The member that is in every row and reads as a label of this kind.

    The kind's usual member is preferred. Among several others, the usual members of other kinds are left out.

    Args:
        indexes: of one shard of each set.
        kind: of the task.
        task: its name.
        place: of the shards, as the user named it.

    Raises:
        ShardError: no member fits, or several do; the message lists the members.
    """
    skipped = (*IMAGES.split(";"), *_NO_LABEL)
    candidates = [ending for ending in _complete(indexes) if ending not in skipped]
    usual = ";".join(ending for ending in kind.endings() if ending in _all(indexes))
    if usual and _in_every_row(indexes, usual) and _why_no_label(indexes, usual, kind) is None:
        others = [ending for ending in candidates if ending not in usual.split(";")]
        return Member(usual, f"the usual one; others: {', '.join(others)}" if others else "in every row")
    reasons = {ending: _why_no_label(indexes, ending, kind) for ending in candidates}
    fitting = [ending for ending, reason in reasons.items() if reason is None]
    if len(fitting) == 1:
        return Member(fitting[0], "the only member that reads as its label")
    owners = kinds_by_member()
    free = [ending for ending in fitting if ending not in owners]
    if len(free) == 1:
        return Member(free[0], "the only one that reads as its label and is not usual for another kind")
    remedy = f"Name it with --set tasks.{task}.data.member=..."
    if fitting:
        raise ShardError(f"--data {place}: {' and '.join(fitting)} could be the label of {task}. {remedy}")
    listed = [f"{ending} ({reason})" for ending, reason in reasons.items()]
    listed += [ending for ending in _all(indexes) if ending not in candidates]
    names = f" If labels are names, name its outputs: --set tasks.{task}.teacher.classes=[...]."
    raise ShardError(
        f"--data {place}: no member of the shards is a label of {task} ({kind.name}, {len(kind.classes)} classes) in "
        f"every row. Members: {'; '.join(listed)}. {remedy}, or name the data of {task}."
        + ("" if kind.dense else names)
    )


def find_image(indexes: Sequence[ShardIndex], place: str) -> str | None:
    """The member that holds the picture; None if it is one of the usual ones.

    Raises:
        ShardError: no member is a picture in every row.
    """
    if _in_every_row(indexes, IMAGES):
        return None
    for ending in _complete(indexes):
        if all(_is_picture(payload) for index in indexes for payload in _some(index, ending)):
            return ending
    raise ShardError(
        f"--data {place}: no member of the shards is a picture in every row. Members: {', '.join(_all(indexes))}."
    )


def _why_no_label(indexes: Sequence[ShardIndex], ending: str, kind: TaskKind) -> str | None:
    for index in indexes:
        for payload in _some(index, ending):
            try:
                kind.read_label(payload)
            except ValueError as error:
                reason = str(error).rstrip(".")
                return reason if len(reason) <= _LONGEST_REASON else reason[:_LONGEST_REASON] + " …"
    return None


def _is_picture(payload: bytes) -> bool:
    try:
        read_image(payload)
    except ValueError:
        return False
    return True


def _some(index: ShardIndex, member: str) -> list[bytes]:
    """The member of some rows, spread over the shard."""
    offsets, sizes = member_column(index, member)
    rows = np.unique(np.linspace(0, len(index) - 1, _ROWS_TRIED).astype(int))
    files = OpenFiles()
    return [files.read(str(index.path), int(offsets[row]), int(sizes[row])) for row in rows]


def _complete(indexes: Sequence[ShardIndex]) -> list[str]:
    """Endings that every row of every shard has."""
    return [ending for ending in _all(indexes) if _in_every_row(indexes, ending)]


def _all(indexes: Sequence[ShardIndex]) -> list[str]:
    return sorted({ending for index in indexes for ending in index.endings})


def _in_every_row(indexes: Sequence[ShardIndex], member: str) -> bool:
    """Whether every row of every shard has a member, or one of several with `;` between them."""
    return all((member_column(index, member)[1] >= 0).all() for index in indexes)
