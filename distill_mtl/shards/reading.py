"""Rows read and looked at before they are written: the work of the reader processes."""

from collections.abc import Sequence
from typing import NamedTuple

from distill_mtl.data.decode import read_image
from distill_mtl.errors import brief
from distill_mtl.shards.facts import Facts
from distill_mtl.shards.members import look
from distill_mtl.shards.rows import LabelError, Rows


class Good(NamedTuple):
    """A row to be written.

    Attributes:
        next: position of the row after it.
        sample: as webdataset's writer takes it.
        facts: of this row.
    """

    next: int
    sample: dict[str, str | bytes]
    facts: Facts


class Bad(NamedTuple):
    """A row that cannot be written.

    Attributes:
        place: where it comes from.
        reason: in words.
        picture: whether it is the picture that is corrupt.
    """

    place: str
    reason: str
    picture: bool


class Reading:
    """Reads rows by their position in the order of the shards. It travels to reader processes.

    Args:
        rows: of the data set.
        order: numbers of rows.
    """

    def __init__(self, rows: Rows, order: Sequence[int]) -> None:
        self._rows, self._order = rows, order

    def __call__(self, positions: range) -> list[Good | Bad]:
        """The rows at some positions."""
        return [self._read(position) for position in positions]

    def _read(self, position: int) -> Good | Bad:
        number = self._order[position]
        try:
            content = self._rows.read(number)
            _, height, width = read_image(content.picture).shape
            facts = Facts(rows=1)
            facts.sizes[f"{width}x{height}"] = 1
            for member, label in content.members.items():
                look(member, label, (height, width), facts)
        except LabelError as error:
            return Bad(self._rows.place(number), str(error).rstrip("."), False)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else brief(error)
            return Bad(self._rows.place(number), reason, True)
        sample: dict[str, str | bytes] = {
            "__key__": self._rows.key(number),
            content.ending: content.picture,
            **content.members,
        }
        return Good(position + 1, sample, facts)
