"""`distill-mtl init`: draft a recipe."""

import argparse
from typing import Any

from distill_mtl.commands.arguments import add_cache, add_overrides


def add_init(commands: Any) -> None:
    init = commands.add_parser(
        "init",
        help="draft a recipe from teachers and their data",
        description="Write a complete recipe to standard output, with where each value comes from beside it: "
        "distill-mtl init --teacher breed.onnx --data shards/breed --teacher part.pt2 --data shards/part --trust > "
        "recipe.yaml",
    )
    init.add_argument(
        "--teacher",
        action="append",
        required=True,
        metavar="FILE",
        help="what `teacher:` takes; once for each task",
    )
    init.add_argument(
        "--data",
        action="append",
        nargs="+",
        required=True,
        metavar="SHARDS",
        help="its labelled data: a folder, or patterns; names with train, val or test say which set a shard is",
    )
    init.add_argument(
        "--student", metavar="NAME", help="timm architecture; default the teachers', else resnet18"
    )
    init.add_argument(
        "--trust", action="store_true", help="let teachers run code: .pt2 and .ts files are programs"
    )
    add_overrides(init)
    add_cache(init)
    init.set_defaults(run=_init)


def _init(arguments: argparse.Namespace) -> int:
    from distill_mtl.jobs.init import init

    init(
        arguments.teacher,
        arguments.data,
        student=arguments.student,
        trust=arguments.trust,
        overrides=arguments.overrides,
    )
    return 0
