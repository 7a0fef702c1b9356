"""Kinds of task: one file each, found by the name that a recipe uses."""
