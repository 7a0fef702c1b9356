"""`distill-mtl shards`: shards from folders, tables, images with masks, and data sets in the forms of others.

    from distill_mtl.shards import folder_rows, write_shards

    written = write_shards(folder_rows("photos/train"), "shards/breed")

Files are named after what they do. The origins list rows: `image_folders`, `tables`, `torchvision_data`; and, of
several sets at once, `coco`, `yolo`, `voc` (which share `annotations` and `masks`) and `hugging_face`. `shard_writer`
turns rows into shards, `shard_summary` prints the result.
"""

import importlib
from typing import Any

_WHERE = {
    "coco_sets": "coco",
    "folder_rows": "image_folders",
    "hf_sets": "hugging_face",
    "pair_rows": "image_folders",
    "table_rows": "tables",
    "torchvision_rows": "torchvision_data",
    "voc_sets": "voc",
    "write_shards": "shard_writer",
    "yolo_sets": "yolo",
}

__all__ = [*_WHERE]


def __getattr__(name: str) -> Any:
    # The command line asks for the arguments alone; torch and torchvision take seconds to import.
    if name not in _WHERE:
        raise AttributeError(f"module 'distill_mtl.shards' has no attribute '{name}'")
    return getattr(importlib.import_module(f"distill_mtl.shards.{_WHERE[name]}"), name)
