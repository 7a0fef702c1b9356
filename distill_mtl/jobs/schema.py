"""`distill-mtl schema`: the recipe's JSON Schema, for editors."""

from distill_mtl.recipe.json_schema import recipe_json_schema_text


def recipe_schema() -> str:
    """Print the JSON Schema of a recipe, for editors.

    Editors with a YAML language server complete and check recipes with it: put
    `# yaml-language-server: $schema=recipe.schema.json` in the first line.

    Returns:
        The text of docs/recipe.schema.json.
    """
    return recipe_json_schema_text()
