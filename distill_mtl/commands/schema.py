"""`distill-mtl schema`: the JSON Schema of a recipe."""

import argparse
import sys
from typing import Any


def add_schema(commands: Any) -> None:
    schema = commands.add_parser(
        "schema",
        help="print the JSON Schema of a recipe, for editors",
        description="Print the JSON Schema of a recipe. Editors with a YAML language server complete and check "
        "recipes with it: put `# yaml-language-server: $schema=recipe.schema.json` in the first line.",
    )
    schema.set_defaults(run=_schema)


def _schema(arguments: argparse.Namespace) -> int:
    from distill_mtl.recipe.json_schema import recipe_json_schema_text

    sys.stdout.write(recipe_json_schema_text())
    return 0
