"""A run: from a recipe to its parts, then the loop, one step after another, with log and checkpoints."""
