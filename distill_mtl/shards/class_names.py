"""Which text stands in a row for its class, and which classes a recipe then lists."""

from collections.abc import Iterable

from distill_mtl.errors import ShardError

_MOST = 100_000


def class_label(name: str) -> str:
    """The text in the shard for a class as people write it: `007` is class number 7."""
    name = name.strip()
    return str(int(name)) if _is_number(name) else name


def list_classes(labels: Iterable[str], place: str) -> tuple[str, ...] | int:
    """The classes in the order of a recipe: names sorted, or their number where all of them are numbers.

    Args:
        labels: as `class_label` gives them.
        place: what holds them, for messages.

    Raises:
        ShardError: a class could be meant by its name or by its number; numbers that cannot be class numbers.
    """
    names = sorted(set(labels))
    numbers = [name for name in names if _is_number(name)]
    if names and len(numbers) == len(names):
        largest = max(map(int, names))
        if largest >= _MOST:
            raise ShardError(
                f"{place}: the class {largest} is a number, but too large for the number of a class. Give the "
                "classes names that are not numbers, or numbers from 0."
            )
        return largest + 1
    for name in numbers:
        if int(name) < len(names):
            raise ShardError(
                f"{place}: the class '{name}' could be a name or class number {name}. Give the classes names that "
                "are not numbers, or all of them numbers from 0."
            )
    return tuple(names)


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal()
