"""`python evaluate_toy.py ARGUMENT ...`: `distill-mtl evaluate` in a process of its own, which knows the toy trunk."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import toys  # noqa: F401  registers the family of the student

from distill_mtl.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
