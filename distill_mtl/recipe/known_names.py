"""What other parts of the program know of the names in a recipe, for those who read one."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class KnownNames:
    """Handed to `load_recipe`, so that a mistake in a name is reported with its line.

    Attributes:
        choices: names by dotted path with `*` for any name: {"tasks.*.kind": ["classification", ...]}. A name
            that ends in a colon stands for all that begin so, a colon alone for all that hold one.
        own_classes: kinds of task whose classes are always the same, so that nobody has to say them; None: which
            these are is not known.
        unit_metrics: kind of task -> its scores in the labels' own unit, of which 1 may be everything or nothing;
            None among them stands for the kind's default score.
    """

    choices: Mapping[str, Collection[str]] = field(default_factory=dict)
    own_classes: Collection[str] | None = ()
    unit_metrics: Mapping[str, Collection[str | None]] = field(default_factory=dict)


NOTHING = KnownNames(own_classes=None)
"""For whoever reads a recipe without the rest of the program."""
