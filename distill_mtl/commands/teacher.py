"""`distill-mtl teacher inspect|check|train`."""

import argparse
from pathlib import Path
from typing import Any

from distill_mtl.commands.arguments import add_cache, add_overrides, add_recipe, add_run, classes, count


def add_teacher(commands: Any) -> None:
    """Add the command `teacher` with what can be done to one."""
    teacher = commands.add_parser("teacher", help="look into a teacher, measure it, or train one")
    of_teachers = teacher.add_subparsers(required=True, metavar="COMMAND")
    _add_inspect(of_teachers)
    _add_teacher_check(of_teachers)
    _add_train(of_teachers)


def _add_inspect(commands: Any) -> None:
    inspect = commands.add_parser(
        "inspect",
        help="print what a trained network wants to see, gives, and offers for hints",
        description="Load a trained network and print what it wants to see and what it gives, each with where that "
        "comes from; its sha256; the layers that hints can use; and the lines of recipe that name it.",
    )
    _add_teacher(inspect)
    inspect.add_argument("--all", action="store_true", help="every layer, not only one of each shape")
    inspect.set_defaults(run=_inspect)


def _add_teacher_check(commands: Any) -> None:
    check = commands.add_parser(
        "check",
        help="measure a trained network on labelled shards",
        description="Measure a trained network on all labelled rows of some shards, as a run does before its first "
        "step. Exit status 2 where it falls short of what it is known to score, or of a constant answer, with the "
        "likely cause.",
    )
    _add_teacher(check)
    check.add_argument(
        "--data",
        nargs="+",
        required=True,
        metavar="SHARDS",
        help="folders, files or patterns: 'shards/pets-*.tar'",
    )
    check.add_argument("--member", help="file ending of the label: cls, seg.png; default the kind's")
    check.add_argument("--kind", help="of the task; default what the network's answer looks like")
    check.add_argument(
        "--classes", help="number, or cat,dog,owl in the order of the label numbers; default its own"
    )
    check.add_argument(
        "--expect", metavar="SCORE", help="points that it must score; default what its folder records"
    )
    check.add_argument(
        "--limit", type=count, metavar="N", help="at most so many rows, spread evenly; default all"
    )
    add_cache(check)
    check.set_defaults(
        run=_teacher_check, interrupted="interrupted before the teacher was measured on all rows."
    )


def _add_train(commands: Any) -> None:
    train = commands.add_parser(
        "train",
        help="train a network of one task, to be a teacher",
        description="Train the one task of a recipe on its labels alone, with the machinery of a run, and save the "
        "network as a teacher: timm's local-dir form for a classifier, a student folder for any other kind, each "
        "with its score in score.json.",
    )
    add_recipe(train)
    add_run(train)
    train.add_argument(
        "--to",
        type=Path,
        metavar="FOLDER",
        help="where the teacher goes; default `teacher` in its run folder",
    )
    train.set_defaults(
        run=_train_teacher,
        interrupted="interrupted. A teacher that had begun to train goes on with --resume.",
    )


def _add_teacher(parser: argparse.ArgumentParser) -> None:
    """Everything with which a recipe can name a teacher."""
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="a folder, a .onnx, .pt2 or .ts file, or hf_hub:owner/name: what `teacher:` takes in a recipe",
    )
    parser.add_argument(
        "--timm", metavar="NAME", help="a pretrained network of timm instead: resnet50.a1_in1k"
    )
    parser.add_argument("--module", metavar="SPEC", help="your own network instead: package.module:callable")
    parser.add_argument("--args", metavar="YAML", help="keyword arguments for its callable: '{depth: 20}'")
    parser.add_argument("--weights", metavar="WEIGHTS", help="its state dict")
    parser.add_argument(
        "--trust", action="store_true", help="let it run code: .pt2, .ts and --module are programs"
    )
    parser.add_argument("--task", metavar="HEAD", help="which head of a student folder with several")
    add_overrides(
        parser, "any other key that a recipe has for a teacher, as often as you like: --set input.size=224"
    )


def _inspect(arguments: argparse.Namespace) -> int:
    from distill_mtl.checks.inspection import inspect_teacher
    from distill_mtl.display import output

    inspect_teacher(*_teacher(arguments), output(), everything=arguments.all)
    return 0


def _teacher_check(arguments: argparse.Namespace) -> int:
    from distill_mtl.jobs.teacher import check_teacher

    values, overrides, task = _teacher(arguments)
    if arguments.expect is not None:
        overrides.append(f"expect={arguments.expect}")
    check_teacher(
        values,
        overrides,
        task,
        arguments.data,
        member=arguments.member,
        kind=arguments.kind,
        classes=classes(arguments.classes),
        limit=arguments.limit,
    )
    return 0


def _train_teacher(arguments: argparse.Namespace) -> int:
    from distill_mtl.jobs.teacher import train_teacher

    train_teacher(
        arguments.recipe,
        arguments.overrides,
        out=arguments.out,
        to=arguments.to,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
    )
    return 0


def _teacher(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str], str]:
    """Keys of a teacher's section, overrides of it, and a name for its task."""
    from distill_mtl.recipe.command_line import task_name

    said = {
        "path": arguments.file,
        "timm": arguments.timm,
        "module": arguments.module,
        "weights": arguments.weights,
        "task": arguments.task,
        "trust": arguments.trust or None,
    }
    values = {key: value for key, value in said.items() if value is not None}
    overrides = [f"args={arguments.args}"] if arguments.args is not None else []
    place = arguments.file or arguments.timm or arguments.weights or ""
    return values, [*overrides, *arguments.overrides], arguments.task or task_name(place)
