"""YAML with a word beside every value: where it came from. For recipes that a command writes for people."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from distill_mtl.recipe.dump import RecipeDumper

_FOREVER = 1_000_000  # columns: a value stands in one line


@dataclass(frozen=True)
class Noted:
    """A value of the recipe, or a section of them, and what is said beside it."""

    value: Any
    note: str


def write_yaml(section: Mapping[str, Any]) -> str:
    """Lines of YAML, one for each key; sections are indented, lists stand in their line.

    Args:
        section: values, sections and `Noted` ones.
    """
    return "\n".join(_lines(section, "")) + "\n"


def _lines(section: Mapping[str, Any], indent: str) -> Iterator[str]:
    for key, entry in section.items():
        value, note = (entry.value, entry.note) if isinstance(entry, Noted) else (entry, "")
        # A note is a comment, whatever a file's name may hold.
        comment = f"  # {' '.join(note.split())}" if note else ""
        if isinstance(value, Mapping) and value:
            yield f"{indent}{key}:{comment}"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{key}: {in_line(value)}{comment}"


def in_line(value: Any) -> str:
    """A value as YAML writes it in a line: `[cat, dog]`."""
    text: str = yaml.dump(
        value,
        Dumper=RecipeDumper,
        default_flow_style=True,
        sort_keys=False,
        allow_unicode=True,
        width=_FOREVER,
    )
    # What closes a document of a single plain value.
    return text.strip().removesuffix("\n...")
