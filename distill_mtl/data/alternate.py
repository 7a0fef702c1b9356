"""How many rows of each source stand in a step's batch where the sources take turns.

A source has whole batches for the steps of one phase, then the next one has them: the setting of Kim et
al., "Disjoint Multi-Task Learning Between Heterogeneous Human-Centric Tasks", WACV 2018. `Quota` is the
mixed counterpart and answers the same questions.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distill_mtl.data.quota import Quota


class Alternating:
    """Rows of each part of each source per step, as a pure function of the step.

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
