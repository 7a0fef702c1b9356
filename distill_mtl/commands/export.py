"""`distill-mtl export`: a student as a file for a serving stack."""

import argparse
from pathlib import Path
from typing import Any

from distill_mtl.commands.arguments import add_cache, count, names


def add_export(commands: Any) -> None:
    export = commands.add_parser(
        "export",
        help="write a student as a file for a serving stack, and check it",
        description="Write the student of a run as a file that needs nothing of distill_mtl: one input `images`, one "
        "output of logits per task, under the task's name. Every file is run by its own runtime on real rows before "
        "it is kept: where a decision of which the student is sure changes, the export fails. More: docs/export.md.",
        epilog="Without --preprocess `images` are pixels at the student's own size, resized and normalised by you, as "
        "the file's note `distill_mtl` says under `inputs` (for most trunks float32 [B, 3, H, W], (RGB / 255 - mean) "
        "/ std).",
    )
    export.add_argument(
        "folder", type=Path, metavar="RUN", help="run folder, such as runs/multidigits, or a student's folder"
    )
    export.add_argument("--to", required=True, metavar="FORMAT", help="onnx, pt2, torchscript, timm or hub")
    export.add_argument("--out", type=Path, metavar="FILE", help="default RUN/export/NAME.ENDING")
    export.add_argument(
        "--only", type=names, metavar="TASKS", help="left,right: cut all other heads and what only they read"
    )
    export.add_argument(
        "--preprocess",
        nargs="?",
        const="float",
        default="normalised",
        choices=("float", "uint8"),
        help="put resize and normalisation inside: `images` are then RGB [B, 3, H, W] of any height and width, float32 "
        "in [0, 1], or bytes with `--preprocess uint8`",
    )
    export.add_argument(
        "--decode",
        action="store_true",
        help="put the answers beside the logits, as TASK.label, TASK.probabilities, TASK.depth, TASK.boxes: what "
        "load_student gives; maps at the size of `images`",
    )
    export.add_argument(
        "--int8",
        action="store_true",
        help="quantise by ONNX Runtime, statically, and show what that loses (--to onnx)",
    )
    export.add_argument(
        "--rows", type=count, default=64, metavar="N", help="rows that the check looks at; default 64"
    )
    export.add_argument(
        "--calibration",
        type=count,
        default=256,
        metavar="N",
        help="training rows that --int8 measures ranges on; default 256",
    )
    export.add_argument(
        "--data", nargs="+", default=[], metavar="SHARDS", help="rows to look at in place of the run's own"
    )
    export.add_argument(
        "--repo", metavar="OWNER/NAME", help="push to this repository of the Hugging Face hub (--to hub)"
    )
    export.add_argument("--private", action="store_true", help="make it a private repository, if it is new")
    export.add_argument("--license", metavar="ID", help="that the model card names: apache-2.0 (--to hub)")
    export.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    export.add_argument("--trust", action="store_true", help="let the code of kinds of your own run")
    add_cache(export)
    export.set_defaults(run=_export, interrupted="interrupted: nothing was written.")


def _export(arguments: argparse.Namespace) -> int:
    from distill_mtl.jobs.export import export

    export(
        arguments.folder,
        arguments.to,
        out=arguments.out,
        tasks=arguments.only,
        pixels=arguments.preprocess,
        decode=arguments.decode,
        int8=arguments.int8,
        rows=arguments.rows,
        calibration=arguments.calibration,
        data=arguments.data,
        overwrite=arguments.overwrite,
        trust=arguments.trust,
        repo=arguments.repo,
        private=arguments.private,
        license=arguments.license,
    )
    return 0
