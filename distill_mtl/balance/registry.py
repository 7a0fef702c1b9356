"""Rules by the name that a recipe uses.

Every module of this folder is imported on the first look-up, so a new rule is one new file.
"""

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from distill_mtl.balance.rule import Rule

RuleClass = TypeVar("RuleClass", bound=type[Rule])

_RULES: dict[str, type[Rule]] = {}


def register(name: str) -> Callable[[RuleClass], RuleClass]:
    """Class decorator: make the rule known as `name`, or as `name:ANYTHING` if it ends in a colon.

    A rule registered as a prefix gets what follows the colon as its argument `name`.
    """

    def add(rule: RuleClass) -> RuleClass:
        if name in _RULES:
            raise ValueError(f"balancing rule '{name}' is registered twice")
        _RULES[name] = rule
        return rule

    return add


def rule_names() -> list[str]:
    """Every known name, sorted; "torchjd:" stands for all names that begin so."""
    package = importlib.import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{__package__}.{module.name}")
    return sorted(_RULES)


def rule_class(name: str) -> type[Rule]:
    """The class that a recipe's name stands for, to ask what it needs before it is made.

    Raises:
        ValueError: nobody registered that name; the message lists the names and the nearest one.
    """
    names = rule_names()
    key = name.partition(":")[0] + ":" if ":" in name else name
    if key not in names or key == name == "torchjd:":
        raise ValueError(
            f"unknown balancing rule '{name}'.{_nearest(name, names)} Known: {', '.join(names)}."
        )
    return _RULES[key]


def make_rule(name: str, tasks: Sequence[str], **options: Any) -> Rule:
    """The rule that a recipe names, for these tasks.

    Args:
        name: as in `rule_names()`, or "torchjd:UPGrad" and the like.
        tasks: names of all tasks.
        options: arguments of the rule's class.

    Raises:
        ValueError: unknown name or option (the message names the known and the nearest), or an option
            whose value makes no sense.
    """
    rule = rule_class(name)
    if name not in _RULES:
        options = {"name": name.partition(":")[2], **options}
    signature = inspect.signature(rule)
    known = [key for key in signature.parameters if key != "tasks"]
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values())
    for key in options:
        if key not in known and not open_ended:
            raise ValueError(
                f"balancing rule '{name}' has no option '{key}'.{_nearest(key, known)} "
                f"Known: {', '.join(known) or 'none'}."
            )
    try:
        signature.bind(tasks, **options)
    except TypeError as error:
        raise ValueError(f"balancing rule '{name}': {error} in its options") from None
    return rule(tasks, **options)


def _nearest(name: str, known: Sequence[str]) -> str:
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean '{found[0]}'?" if found else ""
