"""Which views of its pictures a run sees, where its recipe leaves that to `auto`: crop and flip of each data set."""

import re
from collections.abc import Mapping

from distill_mtl.geometry.views import Size
from distill_mtl.recipe import Recipe
from distill_mtl.recipe.schema import AugmentSection, SourceSection
from distill_mtl.tasks.base import TaskKind, named_classes

SMALL = 64
"""Pixels of a picture's longer side, up to which it is moved and not scaled."""
SHIFT, AREA = 0.125, (0.5, 1.0)
_GLYPH = re.compile(r"\W*([0-9]|[A-Za-z])(\W.*)?")
_SIDE = re.compile(r"(^|[\W_])(left|right)([\W_]|$)", re.IGNORECASE)


def choose_views(recipe: Recipe, kinds: Mapping[str, TaskKind], size: Size) -> Recipe:
    """The recipe with the crop and the flip of every data set decided.

    Args:
        recipe: as loaded.
        kinds: task -> its kind, with its classes.
        size: height and width of the batch's pictures.
    """
    data = {name: _decided(source, kinds, size) for name, source in recipe.data.items()}
    return recipe.model_copy(update={"data": data})


def _decided(source: SourceSection, kinds: Mapping[str, TaskKind], size: Size) -> SourceSection:
    augment: AugmentSection = source.augment
    update: dict[str, object] = {}
    if augment.crop == "auto":
        update["crop"] = SHIFT if max(size) <= SMALL else AREA
    if augment.flip == "auto":
        update["flip"] = not any(means_a_side(kinds[task]) for task in source.labels)
    if not update:
        return source
    return source.model_copy(update={"augment": augment.model_copy(update=update)})


def means_a_side(kind: TaskKind) -> bool:
    """Whether a mirrored picture would be of another class, or of none, as the names of the classes say: digits and
    letters, or left and right, if no option says which classes change places."""
    if getattr(kind, "mirrored", ()):
        return False
    names = named_classes(kind.classes) or ()
    glyphs = len(names) > 1 and all(_GLYPH.fullmatch(name) for name in names)
    return glyphs or any(_SIDE.search(name) for name in names)
