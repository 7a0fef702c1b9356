"""What the registries know of the names in a recipe: kinds of task, loss terms, balancing rules and trackers.

`recipe.known_names` asks for it, so that `load_recipe` reports a wrong name with its line.
"""

from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from distill_mtl.balance import rule_names
from distill_mtl.distillation.term import all_terms
from distill_mtl.recipe.known_names import KnownNames
from distill_mtl.tasks.base import KINDS


def registered_names() -> KnownNames:
    """The names by the key of a recipe that takes them, and what `load_recipe` must know of the kinds."""
    kinds = {name: KINDS[name] for name in KINDS.names()}
    return KnownNames(
        choices={
            "tasks.*.kind": [*kinds, ":"],
            "balance.method": ["auto", *rule_names()],
            "training.trackers.*": list(LOGGER_TYPE_TO_CLASS),
        },
        fixed_classes=[name for name, kind in kinds.items() if kind.fixed_classes is not None],
        unit_metrics={
            name: {*kind.unit_metrics, *((None,) if kind.metrics[0] in kind.unit_metrics else ())}
            for name, kind in kinds.items()
        },
        settled_options={name: kind.settled_options for name, kind in kinds.items() if kind.settled_options},
        terms={term.name: term.weight for term in all_terms() if ":" not in term.name},
    )
