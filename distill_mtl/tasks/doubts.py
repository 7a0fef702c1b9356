"""Doubts about the labels of a data set: labels that can be read, and teach nothing or hold impossible values.

Kinds of task make them from what they counted (`LabelForm.doubts`). `distill-mtl shards` shows them when it has written
the labels, and every run before it trains.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from distill_mtl.errors import a_few

_TRIMMED = 0.1
"""Share of the values, at each end, that may be impossible."""
_GAP = 15.0
"""Between impossible values and all others lies a gap of so many times the range of the middle ones."""
_DIGITS = 3
_FEWEST = 5  # values of which one can be told to be impossible


class Doubt(NamedTuple):
    """What is strange about the labels of a data set.

    Attributes:
        text: what was found, with numbers, and what to do.
        fatal: nothing can be learned or measured with these labels.
    """

    text: str
    fatal: bool = False


def class_doubts(classes: Sequence[str], found: Collection[str], what: str, *, from_one: str) -> list[Doubt]:
    """Of classes that exclude each other: only one that occurs, and those that do not.

    Args:
        classes: of the task.
        found: those that occur.
        what: a label is of, such as "row".
        from_one: what to do where the classes are numbered from 1.
    """
    if len(found) == 1 and len(classes) > 1:
        (only,) = found
        return [
            Doubt(
                f"every labelled {what} is of class {_quoted(only)}. A network that always answers it is never wrong, "
                "so these labels neither teach nor measure anything. Are the right files, column and classes named?"
            )
        ]
    absent = [name for name in classes if name not in found]
    if not absent or not found:
        return []
    numbers = sorted(int(name) for name in found) if _are_numbers(classes) else []
    if numbers == list(range(1, len(classes))):
        return [
            Doubt(
                f"the class numbers go from 1 to {len(numbers)}, and no {what} is of class 0: there are {len(classes)} "
                f"classes with an empty first one. If there are {len(numbers)}, {from_one}."
            )
        ]
    if len(numbers) and len(absent) >= max(2, len(found)):
        listed = a_few([str(number) for number in numbers])
        return [
            Doubt(
                f"the class numbers ({listed}) have gaps: they make {len(classes):,} classes, and {len(absent):,} of "
                f"them have no {what}. If there are {len(found):,} classes, number them from 0 to {len(found) - 1}."
            )
        ]
    return [
        Doubt(
            f"no {what} is of {'class' if len(absent) == 1 else 'the classes'} {a_few([*map(_quoted, absent)])} "
            f"({len(absent):,} of {len(classes):,}). Labels teach nothing about what they do not show, and it has no "
            "score. Add such rows, or remove these classes."
        )
    ]


def never(names: Sequence[str], text: str) -> list[Doubt]:
    """A doubt about some names, if there are any; `text` has a place for them, {names}."""
    return [Doubt(text.format(names=a_few([_quoted(name) for name in names])))] if names else []


def short_number(value: float) -> str:
    """A value to three digits, by which values are counted."""
    return f"{value:.{_DIGITS - 1}e}"


def impossible_values(name: str, counted: Mapping[str, int]) -> list[Doubt]:
    """A doubt where a few values are far away from all others, such as 1e9 among 7 to 20.

    At each end a tenth of the values (at least one) may be impossible. They are doubted where a gap of 15 times the
    range of the middle ones lies before them: sentinels such as -999 have one, long tails do not.

    Args:
        name: of what was measured.
        counted: value, as `short_number` gives it -> how often.
    """
    total = sum(counted.values())
    if total < _FEWEST:
        return []
    values = sorted((float(value), count) for value, count in counted.items())
    aside = max(1, math.floor(total * _TRIMMED))
    least, largest = _after(values, aside), _after(values[::-1], aside)
    # Rounding to some digits may hide so much of the range.
    gap = _GAP * max(largest - least, max(abs(least), abs(largest)) * 10.0 ** (1 - _DIGITS))
    below = _beyond([(-value, count) for value, count in values[::-1]], -least, gap)
    above = _beyond(values, largest, gap)
    far = [(-value, count) for value, count in below] + above
    if not gap or not far:
        return []
    usual = [value for value, _ in values if value not in dict(far)]
    examples = a_few([f"{value:g}" for value, _ in sorted(far, key=lambda one: -abs(one[0]))])
    return [
        Doubt(
            f"{sum(count for _, count in far):,} of {total:,} values of {_quoted(name)} are far from all others: "
            f"{examples} among {usual[0]:g} to {usual[-1]:g}. Are they errors, or do they stand for 'not known'? "
            "Correct them, or leave them empty (null)."
        )
    ]


def _after(values: Sequence[tuple[float, int]], aside: int) -> float:
    """The first value behind so many of them."""
    for value, count in values:
        aside -= count
        if aside < 0:
            return value
    return values[-1][0]


def _beyond(values: Sequence[tuple[float, int]], start: float, gap: float) -> list[tuple[float, int]]:
    """Of rising values, those beyond the first gap after `start`."""
    last = start
    for place, (value, _) in enumerate(values):
        if value > start and value - last > gap:
            return [*values[place:]]
        last = max(last, value)
    return []


def _are_numbers(classes: Sequence[str]) -> bool:
    return list(classes) == [str(number) for number in range(len(classes))]


def _quoted(name: str) -> str:
    return f"'{name}'"
