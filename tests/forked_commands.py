"""Commands in processes that are forked from this one, which has imported everything: a tenth of a start's time.

It says `ready`. Each line of standard input is a JSON list of a file for messages and the arguments of
`toy_command.py`. The answers are two lines: the number of the process, and, at its end, its exit status, negative for
a signal.
"""

import gc
import importlib
import json
import os
import pkgutil
import sys


def main() -> None:
    """Fork a process for each line until there is no other."""
    import short_runs
    import toys  # noqa: F401  registers the family

    import distill_mtl
    from distill_mtl.cli import distill_command
    from distill_mtl.cli import main as other_command

    for module in pkgutil.walk_packages(distill_mtl.__path__, "distill_mtl."):
        importlib.import_module(module.name)
    short_runs.shorten()
    gc.freeze()
    say("ready")
    while line := sys.stdin.readline():
        messages, *arguments = json.loads(line)
        if (child := os.fork()) == 0:
            to = os.open(messages, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for stream, descriptor in ((0, os.open(os.devnull, os.O_RDONLY)), (1, to), (2, to)):
                os.dup2(descriptor, stream)
            try:
                distill_command(arguments[1:]) if arguments[0] == "distill" else other_command(arguments)
            except SystemExit as end:
                sys.stdout.flush()
                os._exit(end.code or 0)  # to take down what was imported would copy it first
        say(str(child))
        say(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
