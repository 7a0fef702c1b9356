"""A `Recipe` to the YAML text that is saved beside a run and repeats it."""

import re
from importlib import metadata

import yaml

from distill_mtl.recipe.lines import FLOAT, TAG
from distill_mtl.recipe.paths import absolute_paths
from distill_mtl.recipe.schema import Recipe


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
