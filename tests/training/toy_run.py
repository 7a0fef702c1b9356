"""`python toy_run.py RECIPE OUT [OVERRIDE ...]`: a run of the toy world in a process that a launcher may start."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import toys  # noqa: F401  registers the family of the student

from distill_mtl import distill, load_recipe

if __name__ == "__main__":
    distill(load_recipe(sys.argv[1], sys.argv[3:]), out=sys.argv[2])
