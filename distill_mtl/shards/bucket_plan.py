"""Shards that go straight into a bucket: `--to s3://…`. Each is written here, sent with what lies beside it, deleted.

The plan goes there too, after each shard, so that the same command continues on any machine.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill_mtl import remote_files
from distill_mtl.data.checksums import checksums_path
from distill_mtl.data.index import index_name, index_to_stream
from distill_mtl.errors import ShardError
from distill_mtl.files import cache_folder
from distill_mtl.remote_files import join
from distill_mtl.shards.shard_plan import FinishedShard, ShardPlan, is_shard_of

_PLACE = "--to"


class BucketPlan(ShardPlan):
    """A plan whose finished shards are in a bucket.

    Args:
        url: of the folder.
        name: as `ShardPlan`, as the other arguments.
        plan: everything that decides the bytes of the shards.
        overwrite: delete the shards of this name that are there.

    Raises:
        ShardError: as `ShardPlan`; the bucket does not answer.
    """

    def __init__(self, url: str, name: str, plan: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.url = url.rstrip("/")
        self._there = remote_files.list_folder(self.url, _PLACE)
        folder = cache_folder() / "writing" / hashlib.blake2b(self.url.encode(), digest_size=8).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        kept = f"{name}.plan.jsonl"
        if (known := self._there.get(kept)) is None:
            (folder / kept).unlink(missing_ok=True)
        else:
            with open(folder / kept, "wb") as file:
                remote_files.fetch(known, file, _PLACE)
        super().__init__(folder, name, plan, overwrite=overwrite)

    def place(self, shard: str) -> str:
        return join(self.url, shard)

    def add(self, finished: FinishedShard) -> None:
        """Send the shard, then what lies beside it, then the plan that says that it is there."""
        path = self.folder / finished.shard
        index = path.with_name(index_name(path.name))
        index.write_bytes(index_to_stream(path))
        for file in (path, checksums_path(path), index):
            if file.exists():
                remote_files.send(file, join(self.url, file.name), _PLACE)
        super().add(finished)
        self._send_plan()
        for file in (path, checksums_path(path), index):
            file.unlink(missing_ok=True)

    def _sizes(self) -> dict[str, int]:
        return {name: file.size for name, file in self._there.items() if is_shard_of(self.name, name)}

    def _write(self) -> None:
        super()._write()
        self._send_plan()

    def _send_plan(self) -> None:
        try:
            remote_files.send(self._path, join(self.url, self._path.name), _PLACE)
        except ShardError as error:
            raise ShardError(f"{error} Name a bucket that you may write to.") from None

    def _delete(self) -> None:
        self._path.unlink(missing_ok=True)
        for name in [self._path.name, *self._sizes()]:
            remote_files.remove(join(self.url, name), _PLACE)
            self._there.pop(name, None)


def folder_name(to: str) -> str:
    """The last part of a URL, or of a path."""
    return (
        to.split("?")[0].rstrip("/").rpartition("/")[2]
        if remote_files.is_remote(to)
        else Path(to).resolve().name
    )
