"""Rules that say which rows are in a slice of the test rows: `key~^night`, `box_area<400`, `weather=rain`.

One field, one operator, one value. Nothing is run: a rule is read into a `Condition`, which compares. A recipe's rules
are read when it is loaded; the fields that rows have are known when the data is opened (`evaluation/slices.py`).
"""

import math
import operator
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

OPERATORS = ("~", "=", "==", "!=", "<", "<=", ">", ">=")
_RULE = re.compile(r"\s*([^~=<>!]+?)\s*(~|==|!=|<=|>=|=|<|>)\s*(.*?)\s*", re.DOTALL)
_ORDER: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_LONGEST_PATTERN, _MOST_REPEATS, _LONGEST_TEXT = 200, 3, 256
_PARTS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?|[()*+{|]|.", re.DOTALL)
"""An escape, a set of letters, the beginning of an extension, a sign of its own, or a letter."""

Value = str | int | float | bool


@dataclass(frozen=True)
class Condition:
    """What a row must fulfil.

    Attributes:
        rule: as it is written.
        field: that is compared.
        sign: of `OPERATORS`.
        value: that it is compared with.
    """

    rule: str
    field: str
    sign: str
    value: str

    def holds(self, values: Collection[Value]) -> bool:
        """Whether one of the values that a row has in the field fulfils it; a row without any does not."""
        return any(self._holds(value) for value in values)

    def _holds(self, value: Value) -> bool:
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if self.sign == "~":
            return re.search(self.value, text[:_LONGEST_TEXT]) is not None
        mine, asked = _number(text), _number(self.value)
        if self.sign in _ORDER:
            return mine is not None and asked is not None and _ORDER[self.sign](mine, asked)
        equal = text == self.value if mine is None or asked is None else mine == asked
        return equal is (self.sign != "!=")


def read_condition(rule: str) -> Condition:
    """A rule, read.

    Raises:
        ValueError: what was found, and what a rule looks like.
    """
    found = _RULE.fullmatch(rule)
    if found is None or not found[3]:
        raise ValueError(
            f"found the rule {rule!r}, expected FIELD, one of {' '.join(OPERATORS)}, and VALUE: key~^night, "
            "box_area<400, weather=rain."
        )
    condition = Condition(rule, *found.groups())
    if condition.sign in _ORDER and _number(condition.value) is None:
        raise ValueError(f"found the rule {rule!r}, expected a number after {condition.sign}.")
    if condition.sign == "~" and (wrong := _refused(condition.value)):
        raise ValueError(f"found the rule {rule!r}: {wrong}")
    return condition


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _refused(pattern: str) -> str:
    """Why a pattern is not taken; empty where it is.

    Python's engine goes back, so that some patterns take time that doubles with each letter. Without a repeated group,
    a reference or a look around, and with few repeats, time is a small power of the text's length, which is bounded.
    """
    if len(pattern) > _LONGEST_PATTERN:
        return f"a pattern has at most {_LONGEST_PATTERN} letters."
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return f"its pattern is no regular expression ({error})."
    parts: list[Any] = _PARTS.findall(pattern)
    if any(before == ")" and part in ("*", "+", "{") for before, part in pairwise(parts)):
        return "a group is repeated, which can take for ever. Repeat single letters or sets: [a-z]+."
    if any(part == "(?" or (part[0] == "\\" and part[1:].isdigit()) for part in parts):
        return "it may not look around, refer to a group or have an extension (?...)."
    if sum(part in ("*", "+", "{") for part in parts) > _MOST_REPEATS:
        return (
            f"it has more than {_MOST_REPEATS} repeats. A search finds a part of the text: .* is not needed."
        )
    return ""


def read_rules(rules: Mapping[str, str | Collection[str]]) -> dict[str, tuple[Condition, ...]]:
    """Slice -> the conditions of its rules, all of which its rows fulfil.

    Raises:
        ValueError: as `read_condition`.
    """
    return {
        name: tuple(read_condition(rule) for rule in ([said] if isinstance(said, str) else said))
        for name, said in rules.items()
    }
