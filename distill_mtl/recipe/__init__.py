"""What a user may write: the recipe's schema, its defaults, and errors that name file, line and key."""

from distill_mtl.recipe.load import load_recipe
from distill_mtl.recipe.schema import Recipe
from distill_mtl.recipe.yaml_writer import dump_recipe

__all__ = ["Recipe", "dump_recipe", "load_recipe"]
