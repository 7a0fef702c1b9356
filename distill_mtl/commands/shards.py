"""`distill-mtl shards`: its arguments. What they need is imported when a command runs."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill_mtl.commands.arguments import count
from distill_mtl.errors import ShardError

if TYPE_CHECKING:
    from distill_mtl.shards.listed_rows import ListedRows

_USUAL_IGNORE = 255
_EXAMPLES = """\
an image folder, a sub-folder for each class (without sub-folders: pictures without labels):
  distill-mtl shards folder photos/train --to shards/breed

a table, .csv, .tsv or .jsonl; one --label for each task:
  distill-mtl shards table labels.csv --images photos --image file --label cls=breed --to shards/breed
  distill-mtl shards table celeba.csv --image image_id --label 'attributes.json=*' --to shards/faces
  distill-mtl shards table poses.jsonl --label values.json=yaw,pitch --group person --to shards/poses

images and masks, paired by their names:
  distill-mtl shards pairs camvid/train/images camvid/train/masks --to shards/camvid --name train
  distill-mtl shards pairs rgb depth --member depth.png --strip _depth --to shards/rooms

any data set of torchvision:
  distill-mtl shards torchvision Flowers102 --root data --args split=train --to shards/flowers --name train

the first 900 rows of the shuffled order to learn from, the others to validate:
  distill-mtl shards folder photos --take :900 --to shards/breed --name train
  distill-mtl shards folder photos --take 900: --to shards/breed --name val
"""


def add_shards(commands: Any) -> None:
    """Add the command `shards` with a sub-command for each origin."""
    shards = commands.add_parser(
        "shards",
        help="write your pictures and labels as shards",
        description="Turn what you have into WebDataset shards: read and checked in parallel, the same bytes whenever "
        "rows and options are the same. Stopped or killed, the same command goes on. At its end it prints what it "
        "wrote, how often each class comes, and the lines for a recipe. More: docs/shards.md.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    origins = shards.add_subparsers(required=True, metavar="ORIGIN")
    _add_folder(origins)
    _add_table(origins)
    _add_pairs(origins)
    _add_torchvision(origins)


def _add_folder(origins: Any) -> None:
    folder = origins.add_parser(
        "folder",
        help="an image folder; sub-folders are classes",
        description="Pictures of a folder, at any depth. The sub-folder of the first level is the class (member cls).",
    )
    folder.add_argument("images", type=Path, metavar="IMAGES", help="the folder")
    folder.add_argument("--unlabelled", action="store_true", help="sub-folders are no classes")
    _add_common(folder, _folder)


def _add_table(origins: Any) -> None:
    table = origins.add_parser(
        "table",
        help="a CSV, TSV or JSON Lines file with columns",
        description="Rows of a table. Labels, one --label for each: cls=COLUMN (name or number of a class); "
        "attributes.json=A,B,C (1 and 0, or 1 and -1; empty: unknown; '*' for all other columns); "
        "values.json=X,Y (numbers; empty: unknown); seg.png=, depth.png=, depth.npy=, normals.png= or "
        "normals.npy=COLUMN (path of a file); boxes.json=COLUMN (JSON: a list of {class, box: [left, top, width, "
        "height]} or {class, point: [x, y]}, in pixels).",
    )
    table.add_argument("file", type=Path, metavar="FILE", help=".csv, .tsv or .jsonl")
    table.add_argument(
        "--images", type=Path, metavar="DIR", help="where its paths start; default its own folder"
    )
    table.add_argument(
        "--image", default="image", metavar="COLUMN", help="of the picture's path; default image"
    )
    table.add_argument(
        "--label",
        action="append",
        default=[],
        type=_label,
        metavar="MEMBER=COLUMN[,COLUMN]",
        help="a label of every row; as often as you like",
    )
    table.add_argument("--group", metavar="COLUMN", help="what rows share with others: a patient, a scene")
    table.add_argument("--allow-missing", action="store_true", help="leave out rows that lack a label")
    _add_kinds(table)
    _add_common(table, _table, ignore=True)


def _add_pairs(origins: Any) -> None:
    pairs = origins.add_parser(
        "pairs",
        help="a folder of images and one of masks, depth maps or normals",
        description="Pictures and the masks of the same relative path, or else of the same file name, before the "
        "ending. A picture or a mask without partner is an error.",
    )
    pairs.add_argument("images", type=Path, metavar="IMAGES", help="folder of the pictures")
    pairs.add_argument("masks", type=Path, metavar="MASKS", help="folder of the masks; may be the same")
    pairs.add_argument(
        "--member",
        default="seg.png",
        metavar="MEMBER",
        help="what they are: seg.png (default), depth.png, depth.npy, normals.png, normals.npy",
    )
    pairs.add_argument(
        "--strip",
        action="append",
        default=[],
        metavar="SUFFIX",
        help="end of names to take off before they are compared, such as _mask; as often as you like",
    )
    pairs.add_argument(
        "--images", dest="image_pattern", metavar="PATTERN", help="which pictures: '*_left.jpg'"
    )
    pairs.add_argument(
        "--masks", dest="mask_pattern", metavar="PATTERN", help="which masks: '*_labelIds.png'"
    )
    pairs.add_argument("--allow-missing", action="store_true", help="leave out what has no partner")
    _add_kinds(pairs)
    _add_common(pairs, _pairs, ignore=True)


def _add_torchvision(origins: Any) -> None:
    torchvision = origins.add_parser(
        "torchvision",
        help="any data set of torchvision",
        description="Rows of a class in torchvision.datasets. Pictures are copied as they are where it keeps files, "
        "else written as PNG; a number is a class, a picture a mask, a list of 0 and 1 attributes, others values.",
    )
    torchvision.add_argument(
        "data_set", metavar="NAME", help="of the class: MNIST, Flowers102, OxfordIIITPet"
    )
    torchvision.add_argument("--root", type=Path, metavar="DIR", help="its folder")
    torchvision.add_argument(
        "--args",
        action="append",
        default=[],
        nargs="+",
        type=_argument,
        metavar="KEY=VALUE",
        help="arguments of the class: --args split=train target_types=segmentation",
    )
    torchvision.add_argument("--download", action="store_true", help="fetch what is not there")
    _add_common(torchvision, _torchvision, ignore=True)


def _add_common(
    parser: argparse.ArgumentParser,
    open_rows: Callable[[argparse.Namespace], "ListedRows"],
    *,
    ignore: bool = False,
) -> None:
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="where the shards go")
    parser.add_argument("--name", default="", help="that they begin with: train, val; default the folder's")
    parser.add_argument("--rows", type=count, default=1000, metavar="N", help="in a shard; default 1000")
    order = parser.add_mutually_exclusive_group()
    order.add_argument(
        "--shuffle",
        type=_number,
        default=0,
        metavar="SEED",
        help="order of the rows; default: shuffled, seed 0",
    )
    order.add_argument(
        "--no-shuffle", action="store_const", const=None, dest="shuffle", help="keep the order"
    )
    parser.add_argument(
        "--take",
        type=_slice,
        default=slice(None),
        metavar="A:B",
        help="only this part of that order: :900, 900:",
    )
    parser.add_argument(
        "--workers", type=_number, metavar="N", help="reader processes; default one for each core"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the shards of this name that are there"
    )
    parser.add_argument(
        "--skip-corrupt",
        action="store_true",
        help="leave out pictures that cannot be decoded, and count them",
    )
    if ignore:
        parser.add_argument(
            "--ignore-index",
            type=_number,
            default=_USUAL_IGNORE,
            metavar="N",
            help="number of a mask's pixels without a class; default 255",
        )
        parser.add_argument(
            "--option",
            action="append",
            default=[],
            type=_argument,
            metavar="NAME=VALUE",
            help="of a label's kind, where its default does not fit your labels: max_objects=200, scale=0.01",
        )
    parser.set_defaults(run=_run, open_rows=open_rows)


def _add_kinds(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kind",
        action="append",
        default=[],
        metavar="MODULE:CLASS",
        help="a kind of task of your own, whose label may be written; as often as you like",
    )
    parser.add_argument("--trust", action="store_true", help="let the code of such kinds run")


def _run(arguments: argparse.Namespace) -> int:
    from distill_mtl.display import output
    from distill_mtl.shards.shard_summary import show
    from distill_mtl.shards.shard_writer import write_shards

    console = output()
    with console.status("listing the rows"):
        rows = arguments.open_rows(arguments)
    written = write_shards(
        rows,
        arguments.to,
        name=arguments.name,
        rows_per_shard=arguments.rows,
        shuffle=arguments.shuffle,
        take=arguments.take,
        workers=arguments.workers,
        overwrite=arguments.overwrite,
        skip_corrupt=arguments.skip_corrupt,
        console=console,
    )
    show(console, written)
    return 0


def _folder(arguments: argparse.Namespace) -> "ListedRows":
    from distill_mtl.shards.image_folders import folder_rows

    return folder_rows(arguments.images, labelled=not arguments.unlabelled, task=_task(arguments))


def _table(arguments: argparse.Namespace) -> "ListedRows":
    from distill_mtl.shards.tables import table_rows

    labels: dict[str, list[str]] = {}
    for member, columns in arguments.label:
        if member in labels:
            raise ShardError(f"--label {member}=... is given twice. A shard has one {member} in a row.")
        labels[member] = columns
    return table_rows(
        arguments.file,
        labels,
        images=arguments.images,
        image=arguments.image,
        group=arguments.group,
        allow_missing=arguments.allow_missing,
        kinds=arguments.kind,
        trust=arguments.trust,
        options=_options(arguments),
    )


def _pairs(arguments: argparse.Namespace) -> "ListedRows":
    from distill_mtl.shards.image_folders import pair_rows

    return pair_rows(
        arguments.images,
        arguments.masks,
        member=arguments.member,
        strip=arguments.strip,
        image_pattern=arguments.image_pattern,
        mask_pattern=arguments.mask_pattern,
        allow_missing=arguments.allow_missing,
        task=_task(arguments),
        kinds=arguments.kind,
        trust=arguments.trust,
        options=_options(arguments),
    )


def _torchvision(arguments: argparse.Namespace) -> "ListedRows":
    from distill_mtl.shards.torchvision_data import torchvision_rows

    return torchvision_rows(
        arguments.data_set,
        arguments.root,
        dict(pair for some in arguments.args for pair in some),
        download=arguments.download,
        task=_task(arguments),
        options=_options(arguments),
    )


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Options of the labels' kinds; --ignore-index is one of them."""
    ignored = {} if arguments.ignore_index == _USUAL_IGNORE else {"ignore_index": arguments.ignore_index}
    return dict(arguments.option) | ignored


def _task(arguments: argparse.Namespace) -> str:
    """The task is called as the folder of its shards."""
    return str(arguments.to.resolve().name)


def _label(text: str) -> tuple[str, list[str]]:
    member, equals, columns = text.partition("=")
    if not equals or not member or not columns:
        raise argparse.ArgumentTypeError(f"expected MEMBER=COLUMN, such as cls=breed, found {text}")
    return member, [column.strip() for column in columns.split(",")]


def _argument(text: str) -> tuple[str, Any]:
    import yaml

    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, such as split=train, found {text}")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise argparse.ArgumentTypeError(f"{value} is no value that YAML understands") from None


def _slice(text: str) -> slice:
    first, colon, last = text.partition(":")
    if not colon or not all(end == "" or end.removeprefix("-").isdecimal() for end in (first, last)):
        raise argparse.ArgumentTypeError(f"expected A:B, such as :900 or 900:, found {text}")
    return slice(int(first) if first else None, int(last) if last else None)


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, found {text}")
    return int(text)
