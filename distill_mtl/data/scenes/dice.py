"""The chance of one scene, drawn number by number."""

from collections.abc import Sequence
from typing import TypeVar

from distill_mtl.data.splitmix import Hashes, uniforms

Side = TypeVar("Side")
_DRAWS = 1024


class Dice:
    """Numbers that follow from one key of SplitMix64, in the order in which they are asked for.

    Args:
        key: uint64 [1], from `fold`.
    """

    def __init__(self, key: Hashes) -> None:
        self._numbers = iter(uniforms(key, _DRAWS)[0].tolist())

    def between(self, low: float, high: float) -> float:
        """A number from `low` on and below `high`."""
        return low + (high - low) * float(next(self._numbers))

    def whole(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both among them."""
        return low + int(self.between(0, high - low + 1))

    def says(self, chance: float) -> bool:
        """True in this share of the cases."""
        return self.between(0, 1) < chance

    def pick(self, sides: Sequence[Side]) -> Side:
        """One of them, each as likely."""
        return sides[self.whole(0, len(sides) - 1)]
