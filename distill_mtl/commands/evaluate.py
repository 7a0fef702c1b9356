"""`distill-mtl evaluate`: a student against its teachers again, or any two models."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill_mtl.commands.arguments import NOT_ACCEPTED, add_cache, classes
from distill_mtl.errors import UserError


def add_evaluate(commands: Any) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        usage="distill-mtl evaluate RUN [--baseline NAME ...] [--acceptance MARGIN ...] [--write] [--json FILE]\n"
        "       distill-mtl evaluate --student MODEL --against MODEL ... --data SHARDS ... [--task TASK]\n"
        "                            [--kind KIND] [--classes CLASSES] [--member ENDING] [--acceptance MARGIN ...]\n"
        "                            [--json FILE] [--trust]",
        help="compare a student with its teachers again, with baselines, or any two models",
        description="Measure the student of a finished run against its teachers on the test rows of the run's "
        "recipe, and print the table: scores, 95 % intervals, verdicts, costs on this machine. Or compare any two "
        "models on labelled shards. Nothing is written unless asked for. Exit status: 0 accepted, 3 not, 2 a mistake "
        "in what was given: a deployment can gate on it.",
        epilog="Models: a run folder, a student folder, or what `teacher:` takes in a recipe (a timm folder, .onnx, "
        ".pt2, .ts, hf_hub:owner/name). distill-mtl evaluate --student runs/A --against runs/B breed.onnx --data "
        "breed='shards/breed-*.tar' part=shards/part. Several processes: ACCELERATE_USE_CPU=true accelerate launch "
        "--multi_gpu --num_processes 2 --main_process_port 0 -m distill_mtl.cli evaluate RUN. More: docs/evaluate.md.",
    )
    evaluate.add_argument(
        "folder", type=Path, nargs="?", metavar="RUN", help="run folder, such as runs/multidigits"
    )
    evaluate.add_argument(
        "--baseline",
        action="append",
        default=[],
        metavar="NAME",
        help="labels_only: the run's student without teachers; single_task: a network of the same trunk for each task; "
        "both are trained into RUN/baselines where they are not there yet. Or any model. As often as you like; "
        "the run's results, report and model card gain them",
    )
    evaluate.add_argument(
        "--write",
        action="store_true",
        help="replace the run's results, report and model card by what is measured now",
    )
    _add_pair(evaluate)
    evaluate.add_argument(
        "--acceptance",
        nargs="+",
        default=[],
        metavar="MARGIN",
        help="largest loss allowed, in points or the score's unit: one number, or TASK=NUMBER; default the recipe's, "
        "else 1 point",
    )
    evaluate.add_argument(
        "--json", type=Path, metavar="FILE", help="write the results there, in the form of results.json"
    )
    evaluate.add_argument(
        "--trust", action="store_true", help="let models run code: .pt2 and .ts files are programs"
    )
    add_cache(evaluate)
    evaluate.set_defaults(run=_evaluate)


def _add_pair(evaluate: argparse.ArgumentParser) -> None:
    """What is said in place of RUN."""
    evaluate.add_argument("--student", metavar="MODEL", help="in place of RUN: the model to judge")
    evaluate.add_argument(
        "--against", nargs="+", default=[], metavar="MODEL", help="what it is judged by, one or several"
    )
    evaluate.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="SHARDS",
        help="labelled shards: folders, files or patterns; for several tasks TASK=SHARDS. All their rows count",
    )
    evaluate.add_argument(
        "--task", help="whose labels the data have, where the student answers several tasks"
    )
    evaluate.add_argument("--kind", help="of the task; default what the student says or looks like")
    evaluate.add_argument(
        "--classes", help="number, or cat,dog,owl in the order of the label numbers; default the student's"
    )
    evaluate.add_argument("--member", help="file ending of the label: cls, seg.png; default the kind's")


def _evaluate(arguments: argparse.Namespace) -> int:
    if arguments.json is not None and not arguments.json.parent.is_dir():
        raise UserError(
            f"--json {arguments.json}: there is no folder {arguments.json.parent}. Make it first."
        )
    if arguments.folder is None:
        return _versus(arguments)
    for option in ("student", "against", "data", "task", "kind", "classes", "member"):
        if getattr(arguments, option):
            raise UserError(
                f"--{option} compares models on data that you name, and {arguments.folder} is a run with data of its "
                "own. Give RUN, or --student, --against and --data."
            )
    from distill_mtl.training.evaluate import evaluate

    found = evaluate(
        arguments.folder,
        baselines=list(dict.fromkeys(arguments.baseline)),
        acceptance=_margins(arguments.acceptance),
        write=arguments.write,
        to=arguments.json,
        trust=arguments.trust,
    )
    return 0 if found.accepted else NOT_ACCEPTED


def _versus(arguments: argparse.Namespace) -> int:
    missing = [f"--{option}" for option in ("student", "against", "data") if not getattr(arguments, option)]
    if missing:
        raise UserError(
            f"found neither a run folder nor {' and '.join(missing)}. Give RUN (distill-mtl evaluate runs/NAME), or "
            "--student, --against and --data."
        )
    if arguments.baseline or arguments.write:
        option = "--baseline" if arguments.baseline else "--write"
        raise UserError(f"{option} belongs to a run. Give RUN, or more models after --against.")
    from distill_mtl.training.versus import About, versus

    found = versus(
        arguments.student,
        arguments.against,
        arguments.data,
        about=About(arguments.task, arguments.kind, classes(arguments.classes), arguments.member),
        acceptance=_margins(arguments.acceptance),
        trust=arguments.trust,
        to=arguments.json,
    )
    return 0 if all(evaluation.accepted for evaluation in found.values()) else NOT_ACCEPTED


def _margins(texts: Sequence[str]) -> float | dict[str, float] | None:
    """`2`, or `breed=2 part=1`; None where nothing was said."""
    margins: dict[str, float] = {}
    for text in texts:
        task, named, number = text.rpartition("=")
        try:
            margins[task] = float(number)
            if not math.isfinite(margins[task]):
                raise ValueError(number)
        except ValueError:
            raise UserError(f"--acceptance {text}: expected a number, or TASK=NUMBER.") from None
        if not named and len(texts) > 1:
            raise UserError(f"--acceptance {text}: expected one number, or TASK=NUMBER for each task.")
    return margins.get("", margins or None)
