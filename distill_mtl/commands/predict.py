"""`distill-mtl predict`: its arguments. What it needs is imported when it runs."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from distill_mtl.commands.arguments import USER_ERROR, add_cache, count, names

_EXAMPLES = """\
  distill-mtl predict runs/scenes photo.jpg                                    a table
  distill-mtl predict runs/scenes photos --json answers.jsonl                  a line of JSON for each picture
  distill-mtl predict runs/scenes photos --masks masks --overlays overlays     label files, and pictures to look at
  distill-mtl predict student.onnx 'shards/pets-{000..009}.tar' --only breed   an exported file, on shards

Exit status 2 where a picture could not be read: it is named, the answers about all others are written.
"""


def add_predict(commands: Any) -> None:
    """Add the command `predict`."""
    predict = commands.add_parser(
        "predict",
        help="answer all tasks for pictures of yours",
        description="Show pictures to a student and print its decoded answers of all tasks, or write them. Without "
        "--json, --masks or --overlays: a table on a terminal, JSON lines elsewhere. More: docs/predict.md.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    predict.add_argument(
        "network",
        metavar="RUN|FILE",
        help="a run folder, a student folder, hf_hub:owner/name, or a file that `distill-mtl export` wrote",
    )
    predict.add_argument(
        "images", nargs="+", metavar="IMAGE", help="pictures, folders of them (at any depth), or shards"
    )
    predict.add_argument(
        "--json", type=Path, metavar="FILE", help="write a JSON object per picture; - for standard output"
    )
    predict.add_argument(
        "--masks",
        type=Path,
        metavar="FOLDER",
        help="write what has a place in the picture as label files, in the form that shards hold",
    )
    predict.add_argument(
        "--overlays", type=Path, metavar="FOLDER", help="write pictures with the answers laid over them"
    )
    predict.add_argument("--only", type=names, metavar="A,B", help="these tasks; default all")
    predict.add_argument(
        "--top", type=count, default=1, metavar="K", help="tell the K likeliest classes; default 1"
    )
    predict.add_argument(
        "--resize",
        choices=("crop", "pad", "squash"),
        help="what the network sees of a picture of another shape: its centre, all of it between black bars, or all of "
        "it stretched; default as in its evaluation",
    )
    predict.add_argument(
        "--image",
        metavar="MEMBERS",
        help="file endings of the picture in a shard, the first found wins; default jpg;jpeg;png;webp",
    )
    predict.add_argument(
        "--batch-size", type=count, default=16, metavar="N", help="pictures that run together; default 16"
    )
    predict.add_argument(
        "--device", help="cpu, cuda, cuda:1, mps; default the accelerator, where there is one"
    )
    predict.add_argument(
        "--trust", action="store_true", help="let it run code: .pt2, .ts and kinds of your own are programs"
    )
    add_cache(predict)
    predict.set_defaults(
        run=_predict,
        interrupted="interrupted: label files and overlays that were finished stay, and --json FILE is not there.",
    )


def _predict(arguments: argparse.Namespace) -> int:
    from distill_mtl.jobs.predict import Options, predict
    from distill_mtl.prediction.named_pictures import MEMBERS

    options = Options(
        only=arguments.only,
        json=arguments.json,
        masks=arguments.masks,
        overlays=arguments.overlays,
        top=arguments.top,
        resize=arguments.resize,
        members=arguments.image or MEMBERS,
        batch_size=arguments.batch_size,
        device=arguments.device,
        trust=arguments.trust,
    )
    try:
        return USER_ERROR if predict(arguments.network, arguments.images, options) else 0
    except BrokenPipeError:  # whoever reads the answers, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
