"""Which view of its picture each training row gets, as a pure function of the row and its turn.

Drawn views come from a hash: a fresh one each epoch, or a fixed number of them in turn. The target cache
(targets/stored_views.py) gives back the views that it recorded.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from distill_mtl.data.picks import Numbers
from distill_mtl.data.source import Source
from distill_mtl.geometry.views import DRAWS, Size, View, plain_view, training_view
from distill_mtl.splitmix import fold, uniforms

Choose = Callable[[int, int, Size], View]
"""(place, row, height and width of its picture) -> its view. `row` is the one asked for at `place`, or the
one that replaces it because its picture cannot be decoded."""


class Framing(ABC):
    """Which view of its picture each training row gets.

    Attributes:
        count: how many views a row has; None: a fresh one each epoch.
    """

    count: int | None

    def turns(self, epochs: Numbers) -> Numbers:
        """int64 [B]: the number of each row's view; of `count` views in turn, or as many as there are epochs."""
        return epochs if self.count is None else epochs % self.count

    @abstractmethod
    def choose(self, number: int, rows: Numbers, turns: Numbers) -> Choose:
        """How to frame `rows` of source `number`, each in its turn.

        Raises:
            UserError: when asked about a row that has no view.
        """


class DrawnViews(Framing):
    """Views by hash. View k of a row is the one it gets in epoch k; of a fixed number, the first is plain.

    Args:
        sources: in the order of their numbers.
        size: height and width of the view.
        seed: of the recipe.
        count: how many views a row has; None: a fresh one each epoch.
    """

    def __init__(self, sources: Sequence[Source], size: Size, seed: int, count: int | None = None) -> None:
        self.count = count
        self._sources, self._size = sources, size
        self._keys = np.concatenate([fold(seed, "views", source.name) for source in sources])

    def choose(self, number: int, rows: Numbers, turns: Numbers) -> Choose:
        section, size = self._sources[number].section, self._size
        augment = section.augment
        if not (augment.crop or augment.flip):
            return lambda place, row, picture: plain_view(picture, size, section.resize)
        plain_turn = -1 if self.count is None else 0
        chance, asked, turn = self._chance(number, rows, turns).tolist(), rows.tolist(), turns.tolist()

        def choose(place: int, row: int, picture: Size) -> View:
            if turn[place] == plain_turn:
                return plain_view(picture, size, section.resize)
            mine = chance[place]
            if row != asked[place]:
                mine = self._chance(number, np.array([row]), turns[place : place + 1])[0].tolist()
            return training_view(picture, size, section.resize, augment.crop, augment.flip, mine)

        return choose

    def _chance(self, number: int, rows: Numbers, turns: Numbers) -> NDArray[np.float64]:
        return uniforms(fold(self._keys[number], turns, rows), DRAWS)
