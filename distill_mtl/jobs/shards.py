"""Write your pictures and labels as shards.

Turn what you have into WebDataset shards. Rows are read and checked in parallel; the same rows and options give the
same bytes. A command that was stopped or killed continues when it is run again. At the end it prints what it wrote, how
often each class occurs, and the lines for a recipe. More: docs/shards.md.

Args:
    to (FOLDER|URL): where the shards go: a folder, or one in a bucket (s3://bucket/pets), with their indexes.
    name: beginning of the shards' names: train, val; default the folder's name, or that of the pictures' folder if it
        is called as a set (photos/test).
    rows (N): rows per shard.
    shuffle (SEED): seed of the order in which rows are written. None: keep the order in which they are listed.
    take (A:B): only this part of that order: :900, 900:
    workers (N): reader processes; 0 reads in this one; default one for each core.
    overwrite: replace the shards of this name that are there.
    skip_corrupt: leave out pictures that cannot be decoded, and count them.
    ignore_index (N): the number in a mask that stands for no class; default 255.
    option (NAME=VALUE, repeated): option of the label's kind, if its default does not fit your labels:
        max_objects=200, scale=0.01
    allow_missing: leave out rows that lack a label.
    kind (MODULE:CLASS, repeated): your own kind of task, whose label may be written; as often as you like.
    trust: let the code of your own kinds run.
    console: where progress and the report are shown; default standard output.

Raises:
    ShardError: rows that cannot be read, all of them named; shards of another plan in the way; a disk that cannot be
        written to.
    Stopped: by Ctrl-C. Finished shards stay.

Examples:
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

    data sets in the form of COCO, YOLO, VOC or Hugging Face, each set by itself (their --help says more):
      distill-mtl shards coco coco2017 --to shards/coco
      distill-mtl shards yolo datasets/birds --to shards/birds
      distill-mtl shards voc VOCdevkit/VOC2012 --label masks --to shards/voc
      distill-mtl shards hf uoft-cs/cifar10 --to shards/cifar10

    the first 900 rows of the shuffled order to learn from, the others to validate:
      distill-mtl shards folder photos --take :900 --to shards/breed --name train
      distill-mtl shards folder photos --take 900: --to shards/breed --name val
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from distill_mtl.data.shard_sets import set_named
from distill_mtl.display import output
from distill_mtl.files import refuse_unwritable
from distill_mtl.jobs.arguments import as_names, as_slice, refuse_below
from distill_mtl.remote_files import is_remote
from distill_mtl.shards.bucket_plan import folder_name
from distill_mtl.shards.image_folders import folder_rows, pair_rows
from distill_mtl.shards.listed_rows import ListedRows
from distill_mtl.shards.shard_summary import show
from distill_mtl.shards.shard_writer import WrittenShards, write_shards
from distill_mtl.shards.tables import table_rows


def shards_from_folder(
    images: Path | str,
    *,
    to: Path | str,
    unlabelled: bool = False,
    name: str = "",
    rows: int = 1000,
    shuffle: int | None = 0,
    take: slice | str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    skip_corrupt: bool = False,
    console: Console | None = None,
) -> WrittenShards:
    """Write an image folder; sub-folders are classes.

    Pictures of a folder, at any depth. The sub-folder of the first level is the class (member cls).

    Args:
        images (IMAGES): the folder.
        unlabelled: sub-folders are not classes.

    Returns:
        What was written, counted. For the other arguments and the errors see `distill_mtl.jobs.shards`.
    """
    shards = ShardOptions(to, name, rows, shuffle, take, workers, overwrite, skip_corrupt)
    return shards.write(
        lambda: folder_rows(images, labelled=not unlabelled, task=shards.task), console, set_of=images
    )


def shards_from_table(
    file: Path | str,
    *,
    to: Path | str,
    images: Path | str | None = None,
    image: str = "image",
    label: Mapping[str, str | Sequence[str]] | None = None,
    group: str | None = None,
    slices: str | Sequence[str] | None = None,
    allow_missing: bool = False,
    kind: Sequence[str] = (),
    trust: bool = False,
    name: str = "",
    rows: int = 1000,
    shuffle: int | None = 0,
    take: slice | str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    skip_corrupt: bool = False,
    ignore_index: int | None = None,
    option: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> WrittenShards:
    """Write a CSV, TSV or JSON Lines file with columns.

    Rows of a table. Labels, one --label for each: cls=COLUMN (name or number of a class); attributes.json=A,B,C
    (1 and 0, or 1 and -1; empty: unknown; '*' for all other columns); values.json=X,Y (numbers; empty: unknown);
    seg.png=, depth.png=, depth.npy=, normals.png= or normals.npy=COLUMN (path of a file); boxes.json=COLUMN (JSON: a
    list of {class, box: [left, top, width, height]} or {class, point: [x, y]}, in pixels).

    Args:
        file (FILE): .csv, .tsv or .jsonl.
        images (DIR): the folder that its paths start from; default its own.
        image (COLUMN): column with the path of the picture.
        label (MEMBER=COLUMN[,COLUMN], repeated): a label of every row; as often as you like.
        group (COLUMN): column with what several rows have in common: a patient, a scene.
        slices (COLUMN[,COLUMN]): columns that evaluation may slice by (weather, camera, box_area): each row gets a
            slice.json with them.

    Returns:
        What was written, counted. For the other arguments and the errors see `distill_mtl.jobs.shards`.
    """
    labels = {member: as_names(columns) or [] for member, columns in (label or {}).items()}
    shards = ShardOptions(to, name, rows, shuffle, take, workers, overwrite, skip_corrupt)
    return shards.write(
        lambda: table_rows(
            file,
            labels,
            images=images,
            image=image,
            group=group,
            slices=as_names(slices) or (),
            allow_missing=allow_missing,
            kinds=kind,
            trust=trust,
            options=kind_options(option, ignore_index),
        ),
        console,
    )


def shards_from_pairs(
    images: Path | str,
    masks: Path | str,
    *,
    to: Path | str,
    member: str = "seg.png",
    strip: Sequence[str] = (),
    image_pattern: str | None = None,
    mask_pattern: str | None = None,
    allow_missing: bool = False,
    kind: Sequence[str] = (),
    trust: bool = False,
    name: str = "",
    rows: int = 1000,
    shuffle: int | None = 0,
    take: slice | str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    skip_corrupt: bool = False,
    ignore_index: int | None = None,
    option: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> WrittenShards:
    """Write a folder of images and one of masks, depth maps or normals.

    Pictures and the masks of the same relative path, or else of the same file name, before the ending. A picture or a
    mask without partner is an error.

    Args:
        images (IMAGES): folder of the pictures.
        masks (MASKS): folder of the masks; may be the same.
        member (MEMBER): what the masks are: seg.png, depth.png, depth.npy, normals.png, normals.npy.
        strip (SUFFIX, repeated): end of names to take off before they are compared, such as _mask; as often as you
            like.
        image_pattern (--images PATTERN): which pictures: '*_left.jpg'
        mask_pattern (--masks PATTERN): which masks: '*_labelIds.png'
        allow_missing: leave out what has no partner.

    Returns:
        What was written, counted. For the other arguments and the errors see `distill_mtl.jobs.shards`.
    """
    shards = ShardOptions(to, name, rows, shuffle, take, workers, overwrite, skip_corrupt)
    return shards.write(
        lambda: pair_rows(
            images,
            masks,
            member=member,
            strip=strip,
            image_pattern=image_pattern,
            mask_pattern=mask_pattern,
            allow_missing=allow_missing,
            task=shards.task,
            kinds=kind,
            trust=trust,
            options=kind_options(option, ignore_index),
        ),
        console,
        set_of=images,
    )


def shards_from_torchvision(
    data_set: str,
    *,
    to: Path | str,
    root: Path | str | None = None,
    args: Mapping[str, Any] | None = None,
    download: bool = False,
    name: str = "",
    rows: int = 1000,
    shuffle: int | None = 0,
    take: slice | str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    skip_corrupt: bool = False,
    ignore_index: int | None = None,
    option: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> WrittenShards:
    """Write any data set of torchvision.

    Rows of a class in torchvision.datasets. Pictures are copied as they are where it keeps files, else written as PNG;
    a number is a class, a picture a mask, a list of 0 and 1 attributes, others values.

    Args:
        data_set (NAME): name of the class: MNIST, Flowers102, OxfordIIITPet.
        root (DIR): its data folder.
        args (KEY=VALUE ..., repeated): arguments of the class: --args split=train target_types=segmentation
        download: download what is not there.

    Returns:
        What was written, counted. For the other arguments and the errors see `distill_mtl.jobs.shards`.
    """
    from distill_mtl.shards.torchvision_data import torchvision_rows  # seconds, and no other origin needs it

    shards = ShardOptions(to, name, rows, shuffle, take, workers, overwrite, skip_corrupt)
    return shards.write(
        lambda: torchvision_rows(
            data_set,
            root,
            args,
            download=download,
            task=shards.task,
            options=kind_options(option, ignore_index),
        ),
        console,
    )


def kind_options(option: Mapping[str, Any] | None, ignore_index: int | None) -> dict[str, Any]:
    """Options of the labels' kinds; the number of pixels without a class is one of them.

    Raises:
        UserError: that number is below 0.
    """
    refuse_below(0, ignore_index=ignore_index)
    return dict(option or {}) | ({} if ignore_index is None else {"ignore_index": ignore_index})


@dataclass(frozen=True)
class ShardOptions:
    """Where and how shards are written, whatever they are written from."""

    to: Path | str
    name: str
    rows: int
    shuffle: int | None
    take: slice | str | None
    workers: int | None
    overwrite: bool
    skip_corrupt: bool

    @property
    def task(self) -> str:
        """A task is called as the folder of its shards."""
        return folder_name(str(self.to))

    def write(
        self, list_rows: Callable[[], ListedRows], console: Console | None, *, set_of: Path | str = ""
    ) -> WrittenShards:
        """List the rows, write them, and print a summary.

        Args:
            list_rows: of one set.
            console: where progress and the summary are shown.
            set_of: the folder of the pictures, whose name may be that of a validation or test set.
        """
        console = self._checked(console)
        with console.status("listing the rows"):
            rows = list_rows()
        folder = Path(set_of).name
        written = self._write(rows, self.name or (folder if set_named(folder) else ""), console)
        show(console, written)
        return written

    def write_sets(
        self, list_sets: Callable[[Console], Mapping[str, ListedRows]], console: Console | None
    ) -> dict[str, WrittenShards]:
        """List the rows of all sets, write each as NAME-SET or SET, and print one summary."""
        console = self._checked(console)
        sets = list_sets(console)
        written = {
            name: self._write(rows, "-".join(part for part in (self.name, name) if part), console)
            for name, rows in sets.items()
        }
        show(console, *written.values())
        return written

    def _checked(self, console: Console | None) -> Console:
        """Where to print, once it is known that all options are valid."""
        refuse_below(1, rows=self.rows)
        refuse_below(0, shuffle=self.shuffle, workers=self.workers)
        as_slice(self.take)
        if not is_remote(self.to):
            refuse_unwritable(Path(self.to), "--to", folder=True)
        return console or output()

    def _write(self, rows: ListedRows, name: str, console: Console) -> WrittenShards:
        return write_shards(
            rows,
            self.to,
            name=name,
            rows_per_shard=self.rows,
            shuffle=self.shuffle,
            take=as_slice(self.take),
            workers=self.workers,
            overwrite=self.overwrite,
            skip_corrupt=self.skip_corrupt,
            console=console,
        )
