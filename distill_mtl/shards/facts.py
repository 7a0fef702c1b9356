"""What was written, counted: of each row, of each shard, and of all of them."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Moments:
    """Of numbers: how many, their mean, the sum of their squared distances from it, the least and the largest."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    least: float = math.inf
    largest: float = -math.inf

    @classmethod
    def of(cls, numbers: NDArray[np.float64]) -> "Moments":
        """Of the numbers [N] of one row."""
        if not numbers.size:
            return cls()
        mean = float(numbers.mean())
        squares = float(np.square(numbers - mean).sum())
        return cls(numbers.size, mean, squares, float(numbers.min()), float(numbers.max()))

    def __add__(self, other: "Moments") -> "Moments":
        """Of both together: Chan, Golub & LeVeque, "Algorithms for computing the sample variance", 1983, eq. 2.1."""
        if not (self.count and other.count):
            return self if self.count else other
        count = self.count + other.count
        apart = other.mean - self.mean
        return Moments(
            count,
            self.mean + apart * other.count / count,
            self.squares + other.squares + apart * apart * self.count * other.count / count,
            min(self.least, other.least),
            max(self.largest, other.largest),
        )

    @property
    def std(self) -> float:
        """Of the numbers themselves, not of a larger population."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0


@dataclass
class Facts:
    """Counts over some rows.

    Attributes:
        rows: how many.
        sizes: "WIDTHxHEIGHT" of the pictures -> rows.
        counts: (member, what is counted) -> value -> how often; such as ("seg.png", "pixels") -> class.
        moments: (member, column) -> of its numbers.
    """

    rows: int = 0
    sizes: Counter[str] = field(default_factory=Counter)
    counts: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    moments: dict[tuple[str, str], Moments] = field(default_factory=dict)

    def count(self, member: str, what: str, values: Mapping[str, int]) -> None:
        """Add to a count."""
        self.counts.setdefault((member, what), Counter()).update(values)

    def measure(self, member: str, column: str, numbers: Moments) -> None:
        """Add numbers to a column."""
        self.moments[member, column] = self.moments.get((member, column), Moments()) + numbers

    def add(self, other: "Facts") -> None:
        """Take in the facts of further rows."""
        self.rows += other.rows
        self.sizes.update(other.sizes)
        for (member, what), values in other.counts.items():
            self.count(member, what, values)
        for (member, column), numbers in other.moments.items():
            self.measure(member, column, numbers)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a line of JSON."""
        return {
            "rows": self.rows,
            "sizes": dict(self.sizes),
            "counts": [[*key, dict(values)] for key, values in self.counts.items()],
            "moments": [
                [*key, *vars(numbers).values()] for key, numbers in self.moments.items() if numbers.count
            ],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Facts":
        """What `to_json` gave."""
        return cls(
            value["rows"],
            Counter(value["sizes"]),
            {(member, what): Counter(values) for member, what, values in value["counts"]},
            {(member, column): Moments(*numbers) for member, column, *numbers in value["moments"]},
        )
