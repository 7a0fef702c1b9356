"""How far a student will be from its teacher: a power law over finished runs, with intervals from left-out merges.

The error of a network falls as a power of what it is trained on (Hestness et al. 2017, arXiv:1712.00409), and a
student's error follows its teacher's, by the sizes of the two and the data that it sees (Busbridge et al. 2025,
arXiv:2502.08606). So the logarithm of the student's error over the teacher's is taken as linear in the logarithms of
what is known before the run. Tasks and runs of one merge resemble each other, so all that is estimated of errors comes
from merges that were left out of the fit: CV+ (Barber, Candès, Ramdas & Tibshirani 2021, section 3), with merges in the
place of rows and the same weight for each of them (Dunn, Wasserman & Ramdas 2023). Of level 1 - a it promises 1 - 2 a
in the worst case, and usually gives about 1 - a.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

LEVEL = 0.8
"""Of the intervals."""
FEWEST = 5
"""Merges that an interval needs. The widest miss of four holds four in five, and the law of a left-out merge is that of
the others."""
LEAST = 0.5
"""Points that an error is counted as at least: a ratio to less is noise."""
FAR = 2.0
"""A run is not forecast where it is so many times beyond all that is known."""
_RIDGE = 1.0


@dataclass(frozen=True, kw_only=True)
class Features:
    """What is known of one task before the run.

    Attributes:
        passes: rows that training sees, as a multiple of the training rows of all data sets.
        size: parameters of the teacher, as a multiple of the student's.
    """

    passes: float
    size: float


Columns = Callable[[Features], Sequence[float]]


def passes_and_size(features: Features) -> Sequence[float]:
    """What the law is linear in."""
    return math.log(features.passes), math.log(features.size)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One task of one finished run.

    Attributes:
        merge: runs of one merge share it.
        task: its name.
        features: as they were known before.
        change: logarithm of the student's error over the teacher's, on the test rows.
    """

    merge: str
    task: str
    features: Features
    change: float


@dataclass(frozen=True)
class Range:
    """A logarithm of errors: the middle, and the ends of the 80 % interval."""

    middle: float
    low: float
    high: float

    def in_points(self, error: float) -> tuple[float, float, float]:
        """Delta, and the ends of its interval: the teacher's error less the student's, in the unit of the score."""
        return tuple(error * (1 - math.exp(end)) for end in (self.middle, self.high, self.low))  # type: ignore[return-value]


def error_of(score: float, *, higher_is_better: bool, in_points: bool) -> float:
    """How far a score is from a perfect one, in its unit; of points at least half a one."""
    error = 100 - score if higher_is_better else score
    return max(error, LEAST) if in_points else error


def log_ratio(student: float, teacher: float) -> float | None:
    """The logarithm of one error over another; None where one of them is none."""
    return math.log(student / teacher) if student > 0 and teacher > 0 else None


class ErrorLaw:
    """The law, fitted to finished runs.

    Args:
        cases: the finished runs.
        columns: what the law is linear in.

    Attributes:
        merges: how many there are.
    """

    def __init__(self, cases: Sequence[Case], columns: Columns = passes_and_size) -> None:
        self._cases = cases
        self.merges = len({case.merge for case in cases})
        self._whole = _Regression(cases, columns)
        self._without = {
            merge: _Regression([case for case in cases if case.merge != merge], columns)
            for merge in sorted({case.merge for case in cases})
            if self.merges > 1
        }

    def forecast(self, features: Features) -> Range | None:
        """Of one task of a run; None where the merges are too few for an interval."""
        if self.merges < FEWEST:
            return None
        middle = self._whole(features)
        lows, highs, weights = [], [], []
        misses = self._misses()
        for left_out, own in misses.items():
            centre = self._without[left_out](features)
            for miss in own:
                lows.append(centre - miss)
                highs.append(centre + miss)
                weights.append(1 / len(own) / (len(misses) + 1))
        low, high = -_quantile([-end for end in lows], weights), _quantile(highs, weights)
        return Range(middle, min(low, middle), max(high, middle))

    def unlike(self, features: Features) -> str:
        """In what a run is far from all that the law has seen, more than twice beyond; empty: in nothing."""
        for name, said in (("passes", "passes over the data"), ("size", "times the student's parameters")):
            value, seen = getattr(features, name), [getattr(case.features, name) for case in self._cases]
            if not min(seen) / FAR <= value <= max(seen) * FAR:
                return f"{value:.3g} {said} are far from the {min(seen):.2g} to {max(seen):.3g} of known runs"
        return ""

    def _misses(self) -> dict[str, list[float]]:
        """Merge -> how far its cases are from the law of the others."""
        found = dict[str, list[float]]()
        for case in self._cases:
            law = self._without[case.merge]
            found.setdefault(case.merge, []).append(abs(case.change - law(case.features)))
        return found


class _Regression:
    """Ridge regression on centred logarithms, each merge with the same weight."""

    def __init__(self, cases: Sequence[Case], columns: Columns) -> None:
        self._columns = columns
        rows = np.array([self._row(case.features) for case in cases])
        counts = Counter(case.merge for case in cases)
        weights = np.array([1 / counts[case.merge] for case in cases])
        self._mean = rows.mean(0)
        self._mean[0] = 0.0
        centred = rows - self._mean
        ridge = _RIDGE * np.eye(rows.shape[1])
        ridge[0, 0] = 0.0
        weighted = centred.T * weights
        changes = np.array([case.change for case in cases])
        self._slopes = np.linalg.solve(weighted @ centred + ridge, weighted @ changes)

    def __call__(self, features: Features) -> float:
        """The change that is expected."""
        return float((self._row(features) - self._mean) @ self._slopes)

    def _row(self, features: Features) -> Numbers:
        return np.array([1.0, *self._columns(features)])


def _quantile(values: Sequence[float], weights: Sequence[float]) -> float:
    """The smallest value that at least `LEVEL` of the weight is at or below; the largest where they have less."""
    order = sorted(range(len(values)), key=values.__getitem__)
    total = 0.0
    for place in order:
        total += weights[place]
        if total >= LEVEL - 1e-9:
            return values[place]
    return values[order[-1]]
