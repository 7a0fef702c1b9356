"""Merge trained single-task networks into one multi-task student: `accelerate launch distill.py recipe.yaml`."""

from distill_mtl.cli import distill_command

if __name__ == "__main__":
    distill_command()
