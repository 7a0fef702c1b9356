"""distill_mtl's commands where the toy networks are known: `cache_toys.py distill|cache|... RECIPE`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

if __name__ == "__main__":
    import toys  # noqa: F401  # registers the family

    from distill_mtl.cli import distill_command, main

    if sys.argv[1] == "distill":
        distill_command(sys.argv[2:])
    else:
        main()
