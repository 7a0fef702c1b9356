"""Loss terms: one file each, found by the name that a recipe's `weights` uses."""
