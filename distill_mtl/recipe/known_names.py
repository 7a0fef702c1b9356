"""The names that a recipe may use and what follows from them, which only other parts of the program know."""

import importlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache

_PROVIDER = "distill_mtl.training.registered_names"


@dataclass(frozen=True)
class KnownNames:
    """Names that stand in registries.

    Attributes:
        choices: names by dotted path with `*` for any name: {"tasks.*.kind": ["classification", ...]}. A name
            that ends in a colon stands for all that begin so, a colon alone for all that hold one.
        fixed_classes: kinds of task whose classes are always the same, so that a recipe need not list them; None: which
            these are is not known.
        unit_metrics: kind of task -> its scores in the label's unit, which have no default margin;
            None among them stands for the kind's default score.
        settled_options: kind of task -> its options that are `auto` where a recipe does not say them.
        terms: loss term -> its default weight; empty: they are not known.
    """

    choices: Mapping[str, Collection[str]] = field(default_factory=dict)
    fixed_classes: Collection[str] | None = ()
    unit_metrics: Mapping[str, Collection[str | None]] = field(default_factory=dict)
    settled_options: Mapping[str, Collection[str]] = field(default_factory=dict)
    terms: Mapping[str, float] = field(default_factory=dict)


@cache
def known_names() -> KnownNames:
    """What the registries of this program know.

    They are looked up by name when a recipe is loaded: they import torch, and stand above this folder.
    """
    known: KnownNames = importlib.import_module(_PROVIDER).registered_names()
    return known
