"""`distill-mtl shards`: shards from folders, tables, images with masks, and torchvision's data sets.

    from distill_mtl.shards import folder_rows, write_shards

    written = write_shards(folder_rows("photos/train"), "shards/breed")

Files are named after what they do: the origins (`folder`, `table`, `pairs`, `torchvision_data`) list rows,
`shard_writer` turns rows into shards, `shard_summary` prints the result.
"""

import importlib
from typing import Any

_WHERE = {
    "folder_rows": "image_folders",
    "pair_rows": "image_folders",
    "table_rows": "tables",
    "torchvision_rows": "torchvision_data",
    "write_shards": "shard_writer",
}

__all__ = ["folder_rows", "pair_rows", "table_rows", "torchvision_rows", "write_shards"]


def __getattr__(name: str) -> Any:
    # The command line asks for the arguments alone; torch and torchvision take seconds to import.
    if name not in _WHERE:
        raise AttributeError(f"module 'distill_mtl.shards' has no attribute '{name}'")
    return getattr(importlib.import_module(f"distill_mtl.shards.{_WHERE[name]}"), name)
