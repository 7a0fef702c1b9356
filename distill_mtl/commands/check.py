"""`distill-mtl check`: everything of a run but training."""

import argparse
from typing import Any

from distill_mtl.commands.arguments import add_recipe


def add_check(commands: Any) -> None:
    check = commands.add_parser(
        "check",
        help="do everything of a run but train",
        description="Do everything of a run but train: validate the recipe, walk every shard to its end, load every "
        "teacher and measure it on its own labelled validation rows, run one batch through all of it. A teacher "
        "that falls short is refused, with the likely cause.",
    )
    add_recipe(check)
    check.set_defaults(
        run=_check, interrupted="interrupted before the check was finished. Nothing was trained."
    )


def _check(arguments: argparse.Namespace) -> int:
    from distill_mtl.jobs.check import check

    check(arguments.recipe, arguments.overrides)
    return 0
