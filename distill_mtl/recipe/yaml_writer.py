"""Recipes as YAML text: the resolved one that is saved beside a run and repeats it, and drafts with comments."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import yaml

from distill_mtl.recipe.load import absolute_paths
from distill_mtl.recipe.schema import Recipe
from distill_mtl.recipe.yaml_reader import FLOAT, TAG
from distill_mtl.untrusted_text import visible


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe: absolute paths, every default written out. Loading it gives an equal recipe."""
    values = absolute_paths(recipe).model_dump(mode="json", by_alias=True)
    body = yaml.dump(values, Dumper=RecipeDumper, sort_keys=False, allow_unicode=True, width=110)
    return f"# Resolved by distill_mtl {_version()}. Running this file repeats the run.\n{body}"


class RecipeDumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 or our reader (YAML 1.2) would take for something else."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # PyYAML loses line separators such as U+2028 between single quotes; double quotes escape them.
    return dumper.represent_scalar(f"{TAG}str", text, style=None if text.isprintable() else '"')


RecipeDumper.add_representer(str, _text)
RecipeDumper.add_implicit_resolver(f"{TAG}float", FLOAT, list("-+0123456789."))
RecipeDumper.add_implicit_resolver(f"{TAG}int", re.compile("^0o[0-7]+$"), ["0"])


def _version() -> str:
    try:
        return metadata.version("distill_mtl")
    except metadata.PackageNotFoundError:
        return "from a checkout that is not installed"


_FOREVER = 1_000_000  # columns: a value stands in one line


@dataclass(frozen=True)
class Noted:
    """A value or section of a recipe, and the comment beside it."""

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
        comment = f"  # {visible(' '.join(note.split()))}" if note else ""
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
