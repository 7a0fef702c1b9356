"""One file per family of trunks; each registers itself under the name that a recipe uses."""
