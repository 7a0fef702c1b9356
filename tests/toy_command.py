"""`toy_command.py distill|cache|... ARGUMENT ...`: the commands in a process that a test or a launcher starts.

The toy networks are known, and runs are short (`short_runs.py`).
"""

import sys

if __name__ == "__main__":
    import short_runs
    import toys  # noqa: F401  registers the family

    from distill_mtl.cli import distill_command, main

    short_runs.shorten()
    if sys.argv[1] == "distill":
        distill_command(sys.argv[2:])
    else:
        main()
