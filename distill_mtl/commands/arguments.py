"""Arguments that several commands take, and how their texts are read."""

import argparse
from pathlib import Path

USER_ERROR, NOT_ACCEPTED, STOPPED = 2, 3, 130
"""Exit statuses: a mistake of the user's, a student below its acceptance, a run that was stopped."""


def add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=Path, help="the recipe, a YAML file")
    add_overrides(parser)
    add_cache(parser)


def add_overrides(
    parser: argparse.ArgumentParser,
    what: str = "override any key, as often as you like: --set tasks.breed.temperature=2",
) -> None:
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help=what
    )


def add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="where generated and downloaded data is kept (else $DISTILL_MTL_CACHE, else ~/.cache/distill_mtl)",
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, metavar="DIR", help="run folder; default runs/NAME")
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument("--resume", action="store_true", help="go on from the run folder's last checkpoint")
    earlier.add_argument("--overwrite", action="store_true", help="delete the run that is in the run folder")


def count(text: str) -> int:
    """A whole number of 1 or more; argparse turns the error into a message."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text}")
    return int(text)


def classes(text: str | None) -> tuple[str, ...] | int | None:
    """`10`, or `cat,dog,owl`."""
    if text is None or text.isdecimal():
        return None if text is None else int(text)
    return tuple(name.strip() for name in text.split(","))


def names(text: str) -> list[str]:
    """`left,right`."""
    return [name.strip() for name in text.split(",") if name.strip()]
