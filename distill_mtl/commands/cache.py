"""`distill-mtl cache [write]|verify`: the target cache."""

import argparse
from collections.abc import Sequence
from typing import Any

from distill_mtl.commands.arguments import add_recipe, count


def add_cache_command(commands: Any) -> None:
    cache = commands.add_parser(
        "cache",
        usage="distill-mtl cache [write] RECIPE [--set KEY=VALUE] [--cache DIR]\n"
        "       distill-mtl cache verify RECIPE [--rows N] [--set KEY=VALUE] [--cache DIR]",
        help="run the teachers once and keep what they say, so that training need not run them",
        description="Run every teacher of a recipe once over the training rows and keep its soft targets and hidden "
        "features, a file per shard and teacher, beside the shards (or in the cache folder where that is not "
        "writable). Runs of the recipe then read them (`targets: auto` or `cached`). It pays for large teachers and "
        "many epochs. By default each row is seen under its plain view, without crop or flip; --set targets.views=4 "
        "keeps four views of each row, and training replays them. Stopped or killed, the same command goes on.",
        epilog="Several processes: ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 "
        "--main_process_port 0 -m distill_mtl.cli cache RECIPE. `distill-mtl cache verify RECIPE` compares random "
        "rows with what the teachers say now. More: docs/target-cache.md.",
    )
    ways = cache.add_subparsers(required=True, metavar="write|verify")
    write = ways.add_parser("write", help="write what is missing; may be left out", usage=cache.usage)
    add_recipe(write)
    write.set_defaults(
        run=_write_cache, interrupted="interrupted. What is written stays; the same command goes on."
    )
    verify = ways.add_parser(
        "verify",
        help="compare random rows of the cache with what the teachers say now",
        description="Run random rows of the training set through the teachers again, under the views that the cache "
        "recorded, and compare their answers with it number by number. Exit status 2 where they differ, with the "
        "rows and files.",
    )
    add_recipe(verify)
    verify.add_argument("--rows", type=count, default=64, metavar="N", help="how many rows; default 64")
    verify.set_defaults(
        run=_verify_cache, interrupted="interrupted before all rows were compared. The cache is as it was."
    )


def named_way(arguments: Sequence[str]) -> list[str]:
    """`cache RECIPE` is `cache write RECIPE`."""
    words = list(arguments)
    if words[:1] == ["cache"] and words[1:2] not in (["write"], ["verify"], ["-h"], ["--help"], []):
        words.insert(1, "write")
    return words


def _write_cache(arguments: argparse.Namespace) -> int:
    from distill_mtl.jobs.cache import write_cache

    write_cache(arguments.recipe, arguments.overrides)
    return 0


def _verify_cache(arguments: argparse.Namespace) -> int:
    from distill_mtl.jobs.cache import verify_cache

    verify_cache(arguments.recipe, arguments.overrides, rows=arguments.rows)
    return 0
