"""Values that several jobs take, in Python's form or as they are written on the command line."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from distill_mtl.data import DataSettings
from distill_mtl.data.shard_sets import as_patterns, find_sets
from distill_mtl.errors import UserError, nearest
from distill_mtl.evaluation.comparison import ComparisonSettings
from distill_mtl.evaluation.verdict import AcceptanceRule
from distill_mtl.recipe import Recipe, load_recipe
from distill_mtl.recipe.schema import LabelSection, SourceSection
from distill_mtl.recipe.slices import read_condition

_RULES: tuple[AcceptanceRule, ...] = get_args(AcceptanceRule)


Acceptance = float | str | Mapping[str, float] | Sequence[str]
"""Margins and the rule that judges by them: `2`, {"breed": 2}, "point", or words as on the command line."""


def as_recipe(recipe: Recipe | Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe's file, loaded; a recipe that is loaded already is taken as it is.

    Raises:
        RecipeError: with every mistake of the file and the overrides, or because it cannot be read.
        UserError: overrides of a recipe that is loaded already.
    """
    if not isinstance(recipe, Recipe):
        return load_recipe(recipe, overrides)
    if overrides:
        raise UserError(
            "overrides are applied when a recipe's file is read, and this recipe is loaded already. "
            "Load it with them: load_recipe(FILE, overrides)."
        )
    return recipe


def recipe_place(recipe: Recipe | Path | str) -> str:
    """How a message names a recipe: by its file, or by its name where it is loaded already."""
    return str(recipe.name) if isinstance(recipe, Recipe) else str(recipe)


def refuse_below(least: int, **values: int | None) -> None:
    """Refuse numbers that are too small; None is none.

    Raises:
        UserError: with the option's name.
    """
    for name, value in values.items():
        if value is not None and value < least:
            option = name.replace("_", "-")
            raise UserError(f"--{option} {value}: expected a whole number of at least {least}.")


def as_names(value: str | Sequence[str] | None) -> list[str] | None:
    """`left,right`, or the names in a list."""
    if value is None:
        return None
    return (
        [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else list(value)
    )


def as_classes(value: int | str | Sequence[str] | None) -> tuple[str, ...] | int | None:
    """`10`, or `cat,dog,owl`, or the names in a list."""
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return tuple(as_names(value) or ())


def as_slices(value: Sequence[str] | Mapping[str, str]) -> dict[str, str | list[str]] | None:
    """`night=key~^night`, or rules by name; of a name that comes again all rules hold. None: nothing was given.

    Raises:
        UserError: no name, or no rule.
    """
    pairs = list(value.items()) if isinstance(value, Mapping) else [_named_rule(text) for text in value]
    found: dict[str, str | list[str]] = {}
    for name, rule in pairs:
        try:
            read_condition(rule)
        except ValueError as error:
            raise UserError(f"--slices {name}: {error}") from None
        found[name] = [*found.get(name, ()), rule]
    return found or None


def _named_rule(text: str) -> tuple[str, str]:
    name, equals, rule = text.partition("=")
    if not (equals and re.fullmatch(r"[A-Za-z][\w-]{0,99}", name)):
        raise UserError(f"--slices {text}: expected NAME=RULE, such as night='key~^night'.")
    return name, rule


def as_slice(value: slice | str | None) -> slice:
    """`:900` or `900:`; None: all.

    Raises:
        UserError: another text.
    """
    if not isinstance(value, str):
        return value or slice(None)
    first, colon, last = value.partition(":")
    if not colon or not all(end == "" or end.removeprefix("-").isdecimal() for end in (first, last)):
        raise UserError(f"--take {value}: expected A:B, such as :900 or 900:.")
    return slice(int(first) if first else None, int(last) if last else None)


def as_data(places: Mapping[str, Sequence[str]], member: str | None) -> DataSettings:
    """Labelled shards as data sets, one for each task; their rows are not cut into sets.

    Args:
        places: task -> folders, files and patterns.
        member: file ending of the label; None: the kind's.
    """
    return DataSettings(
        {
            task: SourceSection(
                shards=as_patterns([path for paths in find_sets(given).values() for path in paths]) or [],
                labels={task: LabelSection(member=member)},
            )
            for task, given in places.items()
        }
    )


@dataclass(frozen=True)
class GivenAcceptance:
    """Acceptance as it was given, in place of the recipe's.

    Attributes:
        margins: for all tasks, or by task; None: not given.
        rule: how to judge by them; None: not given.
    """

    margins: float | Mapping[str, float] | None = None
    rule: AcceptanceRule | None = None

    @classmethod
    def read(cls, value: Acceptance) -> "GivenAcceptance":
        """From `2`, `breed=2 part=1`, `point`, or `point 2`.

        Raises:
            UserError: no number, one below 0, several without a task, or two rules.
        """
        if isinstance(value, Mapping):
            return cls(dict(_margin(task, f"{margin}") for task, margin in value.items()))
        texts = [f"{value}"] if isinstance(value, float | int | str) else list(value)
        rules = [rule for rule in _RULES if rule in texts]
        if len(rules) > 1:
            raise UserError(f"--acceptance {' '.join(texts)}: expected one rule, {' or '.join(_RULES)}.")
        numbers = [text for text in texts if text not in _RULES]
        margins = dict(_margin(*text.rpartition("=")[::2]) for text in numbers)
        if "" in margins and len(numbers) > 1:
            several = next(text for text in numbers if "=" not in text)
            raise UserError(f"--acceptance {several}: expected one number, or TASK=NUMBER for each task.")
        return cls(margins.get("", margins or None), next(iter(rules), None))

    def has(self, task: str) -> bool:
        """Whether it has a margin for a task."""
        return self.margins is not None and (not isinstance(self.margins, Mapping) or task in self.margins)

    def applied(self, settings: ComparisonSettings, tasks: Sequence[str]) -> ComparisonSettings:
        """The settings with what was given in place of their own.

        Raises:
            UserError: a margin for a task that is not among these.
        """
        if isinstance(self.margins, Mapping):
            margins = self.margins
        else:
            margins = {} if self.margins is None else dict.fromkeys(tasks, self.margins)
        for task in margins:
            if task not in tasks:
                raise UserError(
                    f"--acceptance: there is no task '{task}'.{nearest(task, tasks)} Tasks: {', '.join(tasks)}."
                )
        section = settings.acceptance
        changed = {"margin": {**section.margin, **margins}, "rule": self.rule or section.rule}
        return replace(settings, acceptance=section.model_copy(update=changed))


def _margin(task: str, number: str) -> tuple[str, float]:
    """Task, empty for all of them, and its margin."""
    text = f"{task}={number}" if task else number
    try:
        margin = float(number)
    except ValueError:
        margin = math.nan
    if not math.isfinite(margin):
        raise UserError(f"--acceptance {text}: expected a number, or TASK=NUMBER, or {' or '.join(_RULES)}.")
    if margin < 0:
        raise UserError(f"--acceptance {text}: a margin is the largest loss allowed, 0 or more.")
    return task, margin
