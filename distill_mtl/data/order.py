"""Which row a source gives at each position of its endless stream, as a pure function.

The stream asks for positions; nothing here remembers what was asked before, so resuming at a step is
asking for that step, and no process or worker can disturb another (DESIGN 4.24).
"""

import numpy as np
from numpy.typing import NDArray

from distill_mtl.splitmix import draws, fold

Positions = NDArray[np.int64]
Drawn = tuple[NDArray[np.int64], NDArray[np.int64]]


class Shuffled:
    """Every row once per epoch, each epoch in its own order.

    Args:
        seed: of the recipe.
        name: of the source, or of the part of it that the rows are.
        rows: int64 [N], training rows of the source.
    """

    def __init__(self, seed: int, name: str, rows: NDArray[np.int64]) -> None:
        self._rows = rows
        self._permutations = _Permutations((seed, name), len(rows))

    def __call__(self, positions: Positions) -> Drawn:
        """(epoch, row) of each position [P]; the epoch says how often the row came before."""
        epochs, places = np.divmod(positions, len(self._rows))
        return epochs, self._rows[self._permutations(epochs, places)]


class ClassBalanced:
    """Every class once in each C consecutive positions; inside a class every row once per epoch of it.

    Args:
        seed: of the recipe.
        name: of the source, or of the part of it that the rows are.
        rows: int64 [N], training rows of the source.
        classes: int64 [N], the class of each.
    """

    def __init__(self, seed: int, name: str, rows: NDArray[np.int64], classes: NDArray[np.int64]) -> None:
        self._seed, self._name = seed, name
        self._members = [rows[classes == number] for number in np.unique(classes)]
        self._permutations = [
            _Permutations((seed, name, "class", slot), len(members))
            for slot, members in enumerate(self._members)
        ]

    def __call__(self, positions: Positions) -> Drawn:
        """(epoch, row) of each position [P]; the epoch says how often the row came before."""
        blocks, places = np.divmod(positions, len(self._members))
        slots = self._class_order(blocks)[np.arange(len(positions)), places]
        epochs, rows = np.empty_like(positions), np.empty_like(positions)
        for slot in np.unique(slots):
            mine, members = slots == slot, self._members[slot]
            epochs[mine], places = np.divmod(blocks[mine], len(members))
            rows[mine] = members[self._permutations[slot](epochs[mine], places)]
        return epochs, rows

    def _class_order(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 [P, C]: the order of the classes in the block of each position."""
        keys = fold(self._seed, self._name, "blocks", blocks)
        return np.argsort(draws(keys, len(self._members)), axis=1, kind="stable")


class _Permutations:
    """Permutations of `length` rows by epoch; the last two are kept, since a step may span both.

    Args:
        purpose: what they are for; the epoch is added to it.
        length: rows.
    """

    def __init__(self, purpose: tuple[str | int, ...], length: int) -> None:
        self._purpose, self._length = purpose, length
        self._kept: dict[int, NDArray[np.int64]] = {}

    def __call__(self, epochs: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row number at each place [P] of the permutation of its epoch [P]."""
        numbers = np.empty_like(places)
        for epoch in set(epochs.tolist()):
            here = epochs == epoch
            numbers[here] = self._permutation(epoch)[places[here]]
        return numbers

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._kept:
            while len(self._kept) > 1:
                del self._kept[min(self._kept)]
            # Sorting hashes gives every permutation the same chance; ties fall to the smaller row.
            hashes = draws(fold(*self._purpose, epoch), self._length)[0]
            self._kept[epoch] = np.argsort(hashes, kind="stable")
        return self._kept[epoch]
