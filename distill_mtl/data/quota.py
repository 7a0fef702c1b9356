"""The number of rows of each source in a step's batch, and in all steps before it.

`Quota` mixes the sources in every batch. Shares rarely divide a batch, so the remainders rotate: systematic sampling
with an offset that runs through a van der Corput sequence. Everything is counted in whole units of 1/128 row, so each
period of 128 steps gives every source its share to the unit, and both questions have a closed form.

`Alternating` answers the same questions where sources alternate.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_BITS = 7
PERIOD = 1 << _BITS


class Quota:
    """Rows of each source per step, as a pure function of the step.

    Each step's counts sum to the batch size and differ from the exact shares by less than one row;
    the long-run share is right to 1 / (128 x batch size).

    Args:
        weights: positive, one per source, in any unit.
        batch_size: rows per step.
    """

    def __init__(self, weights: Sequence[float], batch_size: int) -> None:
        units = _whole_units(np.asarray(weights, dtype=np.float64), batch_size * PERIOD)
        borders = np.concatenate([[0], np.cumsum(units)])
        counts = np.diff((borders + _van_der_corput()[:, None]) // PERIOD, axis=1)
        self._before = np.concatenate([np.zeros((1, len(units)), np.int64), np.cumsum(counts, axis=0)])

    def counts(self, step: int) -> NDArray[np.int64]:
        """int64 [S]: rows of each source in step `step`."""
        return self.before(step + 1) - self.before(step)

    def before(self, step: int) -> NDArray[np.int64]:
        """int64 [S]: rows of each source in the steps 0 to `step` - 1 together."""
        periods, rest = divmod(step, PERIOD)
        before: NDArray[np.int64] = periods * self._before[PERIOD] + self._before[rest]
        return before

    def phase(self, step: int) -> int:
        """Always 0: every step has rows of all sources, so none begins another phase than the first."""
        return 0


def _whole_units(weights: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """`total` units shared out in proportion, at least one each; largest remainders are rounded up."""
    exact = weights / weights.sum() * total
    units = np.maximum(np.floor(exact).astype(np.int64), 1)
    while (missing := total - int(units.sum())) != 0:
        if missing > 0:
            units[np.argmax(exact - units)] += 1
        else:
            units[np.argmax(units)] -= 1
    return units


def _van_der_corput() -> NDArray[np.int64]:
    """int64 [PERIOD]: 0, 64, 32, 96, 16, ...: the numbers below PERIOD with their bits reversed."""
    numbers = np.arange(PERIOD)
    return np.sum([((numbers >> bit) & 1) << (_BITS - 1 - bit) for bit in range(_BITS)], axis=0)


class Alternating:
    """Rows of each part of each source per step where sources alternate, as a pure function of the step.

    A source has whole batches for the steps of one phase, then the next one has them: the setting of Kim et
    al., "Disjoint Multi-Task Learning Between Heterogeneous Human-Centric Tasks", WACV 2018.

    Args:
        shares: of each source, in the order of the turn, the positive shares of its parts.
        batch_size: rows per step.
        length: steps of a phase.
    """

    def __init__(self, shares: Sequence[Sequence[float]], batch_size: int, length: int) -> None:
        self._length = length
        self._quotas = [Quota(parts, batch_size) for parts in shares]

    def counts(self, step: int) -> NDArray[np.int64]:
        """int64 [P]: rows of each part in step `step`, source after source; one source alone has some."""
        return self.before(step + 1) - self.before(step)

    def before(self, step: int) -> NDArray[np.int64]:
        """int64 [P]: rows of each part in the steps 0 to `step` - 1 together."""
        turns, rest = divmod(step, self._length * len(self._quotas))
        return np.concatenate(
            [
                quota.before(turns * self._length + min(max(rest - place * self._length, 0), self._length))
                for place, quota in enumerate(self._quotas)
            ]
        )

    def phase(self, step: int) -> int:
        """The number of the phase that step `step` belongs to."""
        return step // self._length
