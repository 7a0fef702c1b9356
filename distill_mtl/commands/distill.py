"""`accelerate launch distill.py RECIPE`: the run itself."""

import argparse

from distill_mtl.commands.arguments import NOT_ACCEPTED, add_recipe, add_run

# Rules that need teachers mean nothing without them, so the rule is chosen anew.
LABELS_ONLY = ["training.teachers_on=none", "balance=auto"]


def distill_parser() -> argparse.ArgumentParser:
    """What distill.py takes."""
    parser = argparse.ArgumentParser(
        prog="accelerate launch distill.py",
        description="Merge the trained teachers of a recipe into one multi-task student and compare it with them.",
        epilog="Two processes on the CPU: ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 "
        "--main_process_port 0 distill.py RECIPE. To look before training: distill-mtl check RECIPE.",
    )
    add_recipe(parser)
    add_run(parser)
    parser.add_argument(
        "--labels-only",
        action="store_true",
        help="train without teachers, as a baseline (training.teachers_on=none, balance=auto)",
    )
    parser.set_defaults(
        run=_distill, interrupted="interrupted. A run that had begun to train goes on with --resume."
    )
    return parser


def _distill(arguments: argparse.Namespace) -> int:
    from distill_mtl.jobs.distill import distill
    from distill_mtl.recipe import load_recipe

    overrides = [*arguments.overrides, *(LABELS_ONLY if arguments.labels_only else [])]
    recipe = load_recipe(arguments.recipe, overrides)
    evaluation = distill(recipe, out=arguments.out, resume=arguments.resume, overwrite=arguments.overwrite)
    return 0 if evaluation.accepted else NOT_ACCEPTED
