"""Shards from data sets in the forms of COCO, YOLO, PASCAL VOC and Hugging Face, of which each set becomes shards.

`distill_mtl.jobs.shards` has the other origins, and says what options mean that all have.

Args:
    to (FOLDER): where the shards go: TO/train-000000.tar, TO/val-000000.tar, as the sets are called.
    name: beginning of the shards' names, before the set's.
    sets (NAMES): the sets to write, such as train,val; default all.
    no_background: pixels of no object are unknown, in place of a class `background`: for annotations that cover
        their pictures.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from distill_mtl.jobs.arguments import as_names
from distill_mtl.jobs.shards import ShardOptions, kind_options
from distill_mtl.shards.coco import coco_sets
from distill_mtl.shards.shard_writer import WrittenShards
from distill_mtl.shards.voc import voc_sets
from distill_mtl.shards.yolo import yolo_sets


def shards_from_coco(
    annotations: Path | str,
    *,
    to: Path | str,
    label: Literal["boxes", "points", "masks"] = "boxes",
    images: Path | str | None = None,
    annotation_pattern: str | None = None,
    sets: str | Sequence[str] = (),
    no_background: bool = False,
    allow_missing: bool = False,
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
) -> dict[str, WrittenShards]:
    """Write a data set in COCO's form: boxes, keypoints or masks.

    Pictures and the annotations of a JSON file, or of each set's file in a folder. Classes are the categories by
    their id, without gaps. Boxes around crowds and boxes without area are left out and counted. Keypoints become the
    points of a heat map, of pictures that show one object at most: it finds one point of each class. Masks show a
    class at each pixel: of polygons and run lengths (smaller objects before larger ones, crowds unknown), of
    COCO-Stuff, or of panoptic PNGs.

    Args:
        annotations (FOLDER|FILE): the .json file of a set, or a folder that holds one for each set, at any depth.
        label: what to write.
        images (DIR): folder of the pictures, or of a folder for each set; default what is found beside the annotations.
        annotation_pattern (--annotations PATTERN): which files of the folder count; default of COCO itself
            instances_*, for points *keypoints_*.
        allow_missing: leave out pictures that are not there, and annotations of pictures that are not listed.

    Returns:
        What was written, counted, by set. For the other arguments and the errors see `distill_mtl.jobs.shards`.

    Examples:
        coco2017/annotations/instances_train2017.json, coco2017/train2017/*.jpg, and so on; all sets, or one file:
          distill-mtl shards coco coco2017 --to shards/coco
          distill-mtl shards coco coco2017/annotations/instances_val2017.json --to shards/coco

        masks of the same objects, and of panoptic annotations (the PNGs in a folder called as the file):
          distill-mtl shards coco coco2017 --label masks --to shards/coco-masks
          distill-mtl shards coco coco2017 --annotations 'panoptic_*' --label masks --to shards/panoptic
    """
    shards = ShardOptions(to, name, rows, shuffle, take, workers, overwrite, skip_corrupt)

    def listed(console: Console) -> Any:
        with console.status("reading the annotations"):
            return coco_sets(
                annotations,
                label=label,
                images=images,
                pattern=annotation_pattern,
                sets=as_names(sets) or (),
                background=not no_background,
                allow_missing=allow_missing,
                task=shards.task,
                options=kind_options(option, ignore_index),
            )

    return shards.write_sets(listed, console)


def shards_from_yolo(
    folder: Path | str,
    *,
    to: Path | str,
    label: Literal["boxes", "masks"] = "boxes",
    sets: str | Sequence[str] = (),
    no_background: bool = False,
    allow_missing: bool = False,
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
) -> dict[str, WrittenShards]:
    """Write a data set in YOLO's form, with its data.yaml: boxes or masks.

    The pictures that data.yaml names for train, val and test, each with the lines of its text file: boxes (class,
    centre, width, height) or polygons, in shares of the picture's sides. A picture without a text file shows no object.

    Args:
        folder (FOLDER|FILE): the folder with data.yaml, or that file.
        label: what to write; a polygon's box is the smallest one around it, and masks need polygons.
        allow_missing: leave out pictures that a list names and that are not there.

    Returns:
        What was written, counted, by set. For the other arguments and the errors see `distill_mtl.jobs.shards`.

    Examples:
        birds/data.yaml, birds/images/train/a.jpg, birds/labels/train/a.txt, and so on:
          distill-mtl shards yolo birds --to shards/birds
          distill-mtl shards yolo birds/data.yaml --sets val --label masks --to shards/birds-masks
    """
    shards = ShardOptions(to, name, rows, shuffle, take, workers, overwrite, skip_corrupt)
    return shards.write_sets(
        lambda console: yolo_sets(
            folder,
            label=label,
            sets=as_names(sets) or (),
            background=not no_background,
            allow_missing=allow_missing,
            task=shards.task,
            options=kind_options(option, ignore_index),
            console=console,
        ),
        console,
    )


def shards_from_voc(
    folder: Path | str,
    *,
    to: Path | str,
    label: Literal["boxes", "masks"] = "boxes",
    sets: str | Sequence[str] = (),
    classes: str | Sequence[str] = (),
    keep_difficult: bool = False,
    allow_missing: bool = False,
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
) -> dict[str, WrittenShards]:
    """Write a data set in PASCAL VOC's form: boxes or masks.

    The pictures of each list in ImageSets (Main for boxes, Segmentation for masks), or all where there are no lists.
    Boxes count pixels from 1, as in VOC, unless one begins at 0. Objects flagged as difficult are left out and counted.
    Masks are the palette PNGs of SegmentationClass, whose 255 is no class.

    Args:
        folder (FOLDER): that holds Annotations, JPEGImages, ImageSets, SegmentationClass, or a folder above it.
        label: what to write.
        classes (NAMES): the classes in their order; default of boxes the names in all annotations, sorted; of masks
            background and VOC's twenty where the annotations are VOC's own, else numbers.
        keep_difficult: objects flagged as difficult are objects too.
        allow_missing: leave out rows that lack their picture, annotation or mask.

    Returns:
        What was written, counted, by set. For the other arguments and the errors see `distill_mtl.jobs.shards`.

    Examples:
        the lists train and val of VOC 2012, its boxes and its masks:
          distill-mtl shards voc VOCdevkit/VOC2012 --to shards/voc
          distill-mtl shards voc VOCdevkit/VOC2012 --label masks --to shards/voc-masks
    """
    shards = ShardOptions(to, name, rows, shuffle, take, workers, overwrite, skip_corrupt)
    return shards.write_sets(
        lambda console: voc_sets(
            folder,
            label=label,
            sets=as_names(sets) or (),
            classes=as_names(classes) or (),
            keep_difficult=keep_difficult,
            allow_missing=allow_missing,
            task=shards.task,
            options=kind_options(option, ignore_index),
            console=console,
        ),
        console,
    )


def shards_from_hf(
    data_set: str,
    *,
    to: Path | str,
    config: str | None = None,
    image: str | None = None,
    label: Mapping[str, str | Sequence[str]] | None = None,
    unlabelled: bool = False,
    boxes: Literal["xywh", "xyxy"] = "xywh",
    sets: str | Sequence[str] = (),
    allow_missing: bool = False,
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
) -> dict[str, WrittenShards]:
    """Write a data set of Hugging Face: from the hub, or from a folder or file of it.

    Each split of a data set that the package `datasets` opens. Columns are found by their types and names, and
    printed: the picture; a ClassLabel (cls); a second picture (seg.png, or depth.png); a list of {bbox, category}
    (boxes.json); a list of classes (attributes.json); floats (values.json). Pictures are copied as they are.

    Args:
        data_set (NAME|PATH): owner/name on the hub; a folder of pictures, of parquet files, or by save_to_disk; a
            file .parquet, .arrow, .jsonl or .csv.
        config: of a data set that has several.
        image (COLUMN): column of the picture.
        label (MEMBER=COLUMN[,COLUMN], repeated): columns of a label, in place of those that are found.
        unlabelled: write the pictures alone.
        boxes: what the four numbers of a box are: left, top, and then width and height or right and bottom.
        allow_missing: leave out rows whose class is unknown.

    Returns:
        What was written, counted, by set. For the other arguments and the errors see `distill_mtl.jobs.shards`.

    Examples:
        from the hub, or from where it was fetched:
          distill-mtl shards hf uoft-cs/cifar10 --to shards/cifar10
          distill-mtl shards hf downloads/cppe-5 --label boxes.json=objects --to shards/cppe
    """
    from distill_mtl.shards.hugging_face import hf_sets

    shards = ShardOptions(to, name, rows, shuffle, take, workers, overwrite, skip_corrupt)
    labels = {member: as_names(columns) or [] for member, columns in (label or {}).items()}
    return shards.write_sets(
        lambda console: hf_sets(
            data_set,
            config=config,
            image=image,
            labels=labels,
            unlabelled=unlabelled,
            boxes=boxes,
            sets=as_names(sets) or (),
            allow_missing=allow_missing,
            task=shards.task,
            options=kind_options(option, ignore_index),
        ),
        console,
    )
