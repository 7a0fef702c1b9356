"""The views that the teachers saw, given back to the student box by box and flip by flip."""

from distill_mtl.data.augmentation import ChooseView, TrainingViews
from distill_mtl.data.batch import Integers
from distill_mtl.errors import CacheError
from distill_mtl.geometry.views import Size, View
from distill_mtl.targets.opened import OpenCache
from distill_mtl.targets.plan import BOXES, FLIPS


class StoredViews(TrainingViews):
    """Views as a cache recorded them, rather than drawn again.

    Args:
        cache: opened.
    """

    def __init__(self, cache: OpenCache) -> None:
        self.count = cache.views
        self._cache = cache

    def choose(self, number: int, rows: Integers, turns: Integers) -> ChooseView:
        turn = turns.tolist()

        def choose(place: int, row: int, picture: Size) -> View:
            return self._view(number, row, turn[place])

        return choose

    def _view(self, source: int, row: int, turn: int) -> View:
        file, position = self._cache.find(self._cache.tasks[0], source, row)
        top, left, height, width = file.array(BOXES)[position, turn].tolist()
        if not height:
            raise CacheError(
                f"{file.path}: the picture of row {position} could not be decoded when it was cached, and now it "
                "can. Delete the file and run `distill-mtl cache` again."
            )
        return View(top, left, height, width, bool(file.array(FLIPS)[position, turn]))
