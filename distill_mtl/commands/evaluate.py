"""`distill-mtl evaluate`: a student against its teachers again, or any two models."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill_mtl.commands.arguments import NOT_ACCEPTED, add_cache, classes
from distill_mtl.errors import UserError

if TYPE_CHECKING:
    from distill_mtl.evaluation.verdict import AcceptanceRule

_RULES: tuple["AcceptanceRule", ...] = ("interval", "point")


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
        help="largest loss allowed, 0 or more, in points or the score's unit: one number, or TASK=NUMBER; default the "
        "recipe's, else 1 point. The word `point` beside or in place of it judges by the measured difference alone, "
        "`interval` by its 95 %% interval",
    )
    evaluate.add_argument(
        "--json", type=Path, metavar="FILE", help="write the results there, in the form of results.json"
    )
    evaluate.add_argument(
        "--trust", action="store_true", help="let models run code: .pt2 and .ts files are programs"
    )
    add_cache(evaluate)
    evaluate.set_defaults(
        run=_evaluate,
        interrupted="interrupted before the comparison was finished. Baselines that were trained stay; the same "
        "command compares again.",
    )


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
    margins, rule = _acceptance(arguments.acceptance)
    from distill_mtl.jobs.evaluate import evaluate

    found = evaluate(
        arguments.folder,
        baselines=list(dict.fromkeys(arguments.baseline)),
        acceptance=margins,
        rule=rule,
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
    margins, rule = _acceptance(arguments.acceptance)
    from distill_mtl.jobs.model_comparison import About, versus

    found = versus(
        arguments.student,
        arguments.against,
        arguments.data,
        about=About(arguments.task, arguments.kind, classes(arguments.classes), arguments.member),
        acceptance=margins,
        rule=rule,
        trust=arguments.trust,
        to=arguments.json,
    )
    return 0 if all(evaluation.accepted for evaluation in found.values()) else NOT_ACCEPTED


def _acceptance(texts: Sequence[str]) -> tuple[float | dict[str, float] | None, "AcceptanceRule | None"]:
    """`2`, `breed=2 part=1`, `point`, or `point 2`: the margins and the rule, None for what was not said."""
    rules = [rule for rule in _RULES if rule in texts]
    if len(rules) > 1:
        raise UserError(f"--acceptance {' '.join(texts)}: expected one rule, {' or '.join(_RULES)}.")
    numbers = [text for text in texts if text not in _RULES]
    margins = dict(map(_margin, numbers))
    if "" in margins and len(numbers) > 1:
        several = next(text for text in numbers if "=" not in text)
        raise UserError(f"--acceptance {several}: expected one number, or TASK=NUMBER for each task.")
    return margins.get("", margins or None), next(iter(rules), None)


def _margin(text: str) -> tuple[str, float]:
    """Task, empty for all of them, and its margin."""
    task, _, number = text.rpartition("=")
    try:
        margin = float(number)
    except ValueError:
        margin = math.nan
    if not math.isfinite(margin):
        raise UserError(f"--acceptance {text}: expected a number, or TASK=NUMBER, or {' or '.join(_RULES)}.")
    if margin < 0:
        raise UserError(f"--acceptance {text}: a margin is how much may be lost, 0 or more.")
    return task, margin
