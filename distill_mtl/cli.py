"""The commands: `distill.py RECIPE`, run by `accelerate launch`, and
`distill-mtl shards|init|check|cache|evaluate|report|schema|teacher`.

A user's mistake ends with its message and status 2, a student below its acceptance with 3, a stopped
run with 130.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from distill_mtl.errors import Stopped, StoppedElsewhere, UserError
from distill_mtl.writing.arguments import add_shards

USER_ERROR, NOT_ACCEPTED, STOPPED = 2, 3, 130
# Rules that need teachers mean nothing without them, so the rule is chosen anew.
LABELS_ONLY = ["training.teachers_on=none", "balance=auto"]

# Threads that spin while they wait make a shared machine crawl. Read when torch is loaded, which is later.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def distill_command(arguments: Sequence[str] | None = None) -> None:
    """Entry of distill.py and of `python -m distill_mtl`."""
    parser = argparse.ArgumentParser(
        prog="accelerate launch distill.py",
        description="Merge the trained teachers of a recipe into one multi-task student and compare it with them.",
        epilog="Two processes on the CPU: ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 "
        "--main_process_port 0 distill.py RECIPE. To look before training: distill-mtl check RECIPE.",
    )
    _add_recipe(parser)
    _add_run(parser)
    parser.add_argument(
        "--labels-only",
        action="store_true",
        help="train without teachers, as a baseline (training.teachers_on=none, balance=auto)",
    )
    _run(_distill, parser.parse_args(arguments))


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry of `distill-mtl`."""
    parser = argparse.ArgumentParser(
        prog="distill-mtl",
        description="Everything around a run. The run itself: accelerate launch distill.py RECIPE.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_shards(commands)
    _add_init(commands)
    _add_check(commands)
    _add_targets(commands)
    _add_evaluate(commands)
    _add_report(commands)
    _add_schema(commands)
    teacher = commands.add_parser("teacher", help="look into a teacher, measure it, or train one")
    of_teachers = teacher.add_subparsers(required=True, metavar="COMMAND")
    _add_inspect(of_teachers)
    _add_teacher_check(of_teachers)
    _add_train(of_teachers)

    parsed = parser.parse_args(_named_way(sys.argv[1:] if arguments is None else arguments))
    _run(parsed.run, parsed)


def _add_init(commands: Any) -> None:
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
    _add_overrides(init)
    _add_cache(init)
    init.set_defaults(run=_init)


def _add_check(commands: Any) -> None:
    check = commands.add_parser(
        "check",
        help="do everything of a run but train",
        description="Do everything of a run but train: validate the recipe, walk every shard to its end, load every "
        "teacher and measure it on its own labelled validation rows, run one batch through all of it. A teacher "
        "that falls short is refused, with the likely cause.",
    )
    _add_recipe(check)
    check.set_defaults(run=_check)


def _add_targets(commands: Any) -> None:
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
    _add_recipe(write)
    write.set_defaults(run=_write_cache)
    verify = ways.add_parser(
        "verify",
        help="compare random rows of the cache with what the teachers say now",
        description="Run random rows of the training set through the teachers again, under the views that the cache "
        "recorded, and compare their answers with it number by number. Exit status 2 where they differ, with the "
        "rows and files.",
    )
    _add_recipe(verify)
    verify.add_argument("--rows", type=_count, default=64, metavar="N", help="how many rows; default 64")
    verify.set_defaults(run=_verify_cache)


def _add_evaluate(commands: Any) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        usage="distill-mtl evaluate RUN [--baseline NAME ...] [--acceptance MARGIN ...] [--write] [--json FILE]\n"
        "       distill-mtl evaluate --student MODEL --against MODEL ... --data SHARDS ... [--task TASK]\n"
        "                            [--kind KIND] [--classes CLASSES] [--member ENDING] [--acceptance MARGIN ...]\n"
        "                            [--json FILE] [--trust]",
        help="compare a student with its teachers again, with baselines, or any two models",
        description="Measure the student of a finished run against its teachers on the test rows of the run's "
        "recipe, and print the table: scores, 95 %% intervals, verdicts, costs on this machine. Or compare any two "
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
        "results.json of the run gains them",
    )
    evaluate.add_argument(
        "--write", action="store_true", help="replace the run's results.json by what is measured now"
    )
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
    _add_cache(evaluate)
    evaluate.set_defaults(run=_evaluate)


def _add_report(commands: Any) -> None:
    report = commands.add_parser(
        "report",
        help="write the report of a run again, or one page that compares runs",
        description="One run: write its report.html and report.md again, from its folder alone; a run that is not "
        "finished is shown as far as it came. Several runs: write one page that compares them.",
    )
    report.add_argument(
        "folders", nargs="+", type=Path, metavar="RUN", help="run folder, such as runs/multidigits"
    )
    report.add_argument(
        "--to",
        type=Path,
        metavar="FILE",
        help="where the page goes; default report.html in the run folder, of several runs comparison.html beside "
        "the first",
    )
    report.set_defaults(run=_report)


def _add_schema(commands: Any) -> None:
    schema = commands.add_parser(
        "schema",
        help="print the JSON Schema of a recipe, for editors",
        description="Print the JSON Schema of a recipe. Editors with a YAML language server complete and check "
        "recipes with it: put `# yaml-language-server: $schema=recipe.schema.json` in the first line.",
    )
    schema.set_defaults(run=_schema)


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
        "--limit", type=_count, metavar="N", help="at most so many rows, spread evenly; default all"
    )
    _add_cache(check)
    check.set_defaults(run=_teacher_check)


def _add_train(commands: Any) -> None:
    train = commands.add_parser(
        "train",
        help="train a network of one task, to be a teacher",
        description="Train the one task of a recipe on its labels alone, with the machinery of a run, and save the "
        "network as a teacher: timm's local-dir form for a classifier, a student folder for any other kind, each "
        "with its score in score.json.",
    )
    _add_recipe(train)
    _add_run(train)
    train.add_argument(
        "--to",
        type=Path,
        metavar="FOLDER",
        help="where the teacher goes; default `teacher` in its run folder",
    )
    train.set_defaults(run=_train_teacher)


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
    _add_overrides(
        parser, "any other key that a recipe has for a teacher, as often as you like: --set input.size=224"
    )


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


def _named_way(arguments: Sequence[str]) -> list[str]:
    """`cache RECIPE` is `cache write RECIPE`."""
    words = list(arguments)
    if words[:1] == ["cache"] and words[1:2] not in (["write"], ["verify"], ["-h"], ["--help"], []):
        words.insert(1, "write")
    return words


def _count(text: str) -> int:
    """A whole number of 1 or more; argparse turns the error into a message."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text}")
    return int(text)


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=Path, help="the recipe, a YAML file")
    _add_overrides(parser)
    _add_cache(parser)


def _add_overrides(
    parser: argparse.ArgumentParser,
    what: str = "override any key, as often as you like: --set tasks.breed.temperature=2",
) -> None:
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help=what
    )


def _add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="where generated and downloaded data is kept (else $DISTILL_MTL_CACHE, else ~/.cache/distill_mtl)",
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, metavar="DIR", help="run folder; default runs/NAME")
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument("--resume", action="store_true", help="go on from the run folder's last checkpoint")
    earlier.add_argument("--overwrite", action="store_true", help="delete the run that is in the run folder")


def _run(command: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> None:
    """Run a command and turn what went wrong into a message and an exit status."""
    if getattr(arguments, "cache", None) is not None:
        os.environ["DISTILL_MTL_CACHE"] = str(arguments.cache.resolve())
    first = os.environ.get("RANK", "0") == "0"
    errors = Console(stderr=True, highlight=False)
    if first:
        logging.getLogger("distill_mtl").setLevel(logging.INFO)
        logging.basicConfig(format="%(message)s")
    together = True
    try:
        status = command(arguments)
    except UserError as error:
        if first or not error.everywhere:
            errors.print(str(error), style="red", markup=False, soft_wrap=True)
        status = USER_ERROR
    except StoppedElsewhere:
        status = USER_ERROR
    except Stopped as stopped:
        if first:
            errors.print(str(stopped), markup=False, soft_wrap=True)
        status = STOPPED
    except KeyboardInterrupt:
        if first:
            errors.print("interrupted. A run that had begun to train goes on with --resume.")
        status, together = STOPPED, False
    if together:
        _leave_process_group()
    sys.exit(status)


def _leave_process_group() -> None:
    """End the process group, where a command joined one and every process of it ends here.

    Without it gloo's threads still run while the interpreter is taken down, and now and then abort a process
    that had done all its work.
    """
    if "torch" in sys.modules:
        from torch import distributed

        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()


def _distill(arguments: argparse.Namespace) -> int:
    from distill_mtl.assembly.build import known_names
    from distill_mtl.recipe import load_recipe
    from distill_mtl.training.run import distill

    overrides = [*arguments.overrides, *(LABELS_ONLY if arguments.labels_only else [])]
    recipe = load_recipe(arguments.recipe, overrides, known=known_names())
    evaluation = distill(recipe, out=arguments.out, resume=arguments.resume, overwrite=arguments.overwrite)
    return 0 if evaluation.accepted else NOT_ACCEPTED


def _check(arguments: argparse.Namespace) -> int:
    from distill_mtl.checks.command import check

    check(arguments.recipe, arguments.overrides)
    return 0


def _write_cache(arguments: argparse.Namespace) -> int:
    from distill_mtl.training.cache import write_cache

    write_cache(arguments.recipe, arguments.overrides)
    return 0


def _verify_cache(arguments: argparse.Namespace) -> int:
    from distill_mtl.training.cache import verify_cache

    verify_cache(arguments.recipe, arguments.overrides, rows=arguments.rows)
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
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
        about=About(arguments.task, arguments.kind, _classes(arguments.classes), arguments.member),
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
        except ValueError:
            raise UserError(f"--acceptance {text}: expected a number, or TASK=NUMBER.") from None
        if not named and len(texts) > 1:
            raise UserError(f"--acceptance {text}: expected one number, or TASK=NUMBER for each task.")
    return margins.get("", margins or None)


def _report(arguments: argparse.Namespace) -> int:
    from distill_mtl.display import output
    from distill_mtl.report import write_comparison, write_report

    if len(arguments.folders) == 1:
        page = write_report(arguments.folders[0], to=arguments.to)
    else:
        page = write_comparison(arguments.folders, to=arguments.to)
    output().print(f"report: {page}", highlight=False, soft_wrap=True)
    return 0


def _schema(arguments: argparse.Namespace) -> int:
    from distill_mtl.recipe.json_schema import recipe_json_schema_text

    sys.stdout.write(recipe_json_schema_text())
    return 0


def _init(arguments: argparse.Namespace) -> int:
    from distill_mtl.drafting.command import init

    init(
        arguments.teacher,
        arguments.data,
        student=arguments.student,
        trust=arguments.trust,
        overrides=arguments.overrides,
    )
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    from distill_mtl.display import output
    from distill_mtl.drafting.inspection import inspect_teacher

    inspect_teacher(*_teacher(arguments), output(), everything=arguments.all)
    return 0


def _teacher_check(arguments: argparse.Namespace) -> int:
    from distill_mtl.checks.teacher_command import check_teacher

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
        classes=_classes(arguments.classes),
        limit=arguments.limit,
    )
    return 0


def _classes(text: str | None) -> tuple[str, ...] | int | None:
    """`10`, or `cat,dog,owl`."""
    if text is None or text.isdecimal():
        return None if text is None else int(text)
    return tuple(name.strip() for name in text.split(","))


def _train_teacher(arguments: argparse.Namespace) -> int:
    from distill_mtl.training.teacher import train_teacher

    train_teacher(
        arguments.recipe,
        arguments.overrides,
        out=arguments.out,
        to=arguments.to,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
    )
    return 0


if __name__ == "__main__":
    main()
