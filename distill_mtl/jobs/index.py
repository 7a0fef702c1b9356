"""`distill-mtl index`: the index of shards that stay in a bucket, beside each of them."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from distill_mtl import remote_files
from distill_mtl.data.checksums import SUFFIX
from distill_mtl.data.index import has_index_to_stream, index_name, index_to_stream, streamed_index
from distill_mtl.data.shard_files import Shard, expand_braces
from distill_mtl.display import Display, output
from distill_mtl.errors import ShardError, UserError
from distill_mtl.files import atomic_file
from distill_mtl.folders import walk_folder
from distill_mtl.remote_files import RemoteFile, folder_of, is_remote, join

_THREADS = 4


def index_shards(
    places: Sequence[str], *, overwrite: bool = False, console: Console | None = None
) -> list[str]:
    """Write the index of shards that stay in a bucket.

    An index says where the members of a shard lie, and their checksums, so that a run reads rows without the shard
    being there from the beginning (data.SOURCE.store). It lies beside the shard: pets-000.tar.index.npz. Each shard is
    read whole, once. Indexes that are there and fit their shard stay. Of a folder of this machine they are written
    beside the shards, to be copied with them. `distill-mtl shards --to s3://...` writes them itself.

    Args:
        places (URL|FOLDER ...): folder in a bucket, URL of shards with {000..009} and *, or a folder of this machine.
        overwrite: write those that are there again.
        console: where progress is shown; default standard output.

    Returns:
        The shards whose index was written.

    Raises:
        UserError: there are no shards, one is cut or damaged, or an index cannot be written.
        KeyboardInterrupt: interrupted. Indexes that are written stay; the same command writes the others.

    Examples:
        all shards of a folder, and some of them:
          distill-mtl index s3://bucket/pets
          distill-mtl index 's3://bucket/pets/train-{000..099}.tar'
    """
    console = console or output()
    given = [places] if isinstance(places, str) else list(places)
    written = [shard for place in given for shard in _of_place(place, overwrite, console)]
    console.print(f"wrote {len(written):,} {'index' if len(written) == 1 else 'indexes'}", highlight=False)
    return written


def _of_place(place: str, overwrite: bool, console: Console) -> list[str]:
    if not is_remote(place):
        return _of_folder(Path(place), overwrite, console)
    shards, beside = _listed(place)
    if not shards:
        raise ShardError(f"index {place}: there are no shards (*.tar).")
    left = [shard for shard in shards if overwrite or not _fits(shard, beside.get(index_name(shard.url)))]
    with Display(console, "indexing", len(left), unit="shard") as display:
        for first in range(0, len(left), _THREADS):
            some = left[first : first + _THREADS]
            remote_files.at_once(lambda shard: _write(shard, beside), some, _THREADS)
            display.update(first + len(some))
    return [shard.url for shard in left]


def _listed(place: str) -> tuple[list[RemoteFile], dict[str, RemoteFile]]:
    """The shards that a URL names, and by URL all files that lie beside them."""
    if place.split("?")[0].endswith(".tar"):
        found: list[RemoteFile] = []
        for url in expand_braces(place, "index"):
            if "*" in url:
                found += remote_files.glob_remote(url, "index")
            elif (file := remote_files.describe(url, "index")) is not None:
                found.append(file)
            else:
                remote_files.refuse_no_bucket(url, "index")
                raise ShardError(f"index: 1 shard is missing: {url}.")
        folders = list(dict.fromkeys(folder_of(file.url) for file in found))
    else:
        found, folders = [], [place]
    listed = {folder: remote_files.list_folder(folder, "index") for folder in folders}
    beside = {join(folder, name): file for folder in folders for name, file in listed[folder].items()}
    return found or [file for url, file in sorted(beside.items()) if url.endswith(".tar")], beside


def _fits(shard: RemoteFile, index: RemoteFile | None) -> bool:
    if index is None:
        return False
    try:
        streamed_index(Shard(shard.url, Path(shard.name), shard, index), "index")
    except ShardError:
        return False
    return True


def _write(shard: RemoteFile, beside: dict[str, RemoteFile]) -> None:
    """Fetch a shard, and write its index beside it in the bucket."""
    with tempfile.TemporaryDirectory(prefix="distill_mtl-index-") as folder:
        here = Path(folder) / shard.name
        with open(here, "wb") as file:
            remote_files.fetch(shard, file, "index")
        if (checksums := beside.get(shard.url + SUFFIX)) is not None:
            with open(here.with_name(here.name + SUFFIX), "wb") as file:
                remote_files.fetch(checksums, file, "index")
        try:
            content = index_to_stream(here)
        except ShardError as error:
            raise ShardError(str(error).replace(str(here), shard.url)) from None
        index = here.with_name(index_name(here.name))
        index.write_bytes(content)
        remote_files.send(index, join(folder_of(shard.url), index.name), "index")


def _of_folder(folder: Path, overwrite: bool, console: Console) -> list[str]:
    if not folder.is_dir():
        raise UserError(f"index {folder}: there is no such folder. Name one, or a URL.")
    shards = [folder / path for path in walk_folder(folder).ending(".tar")]
    if not shards:
        raise ShardError(f"index {folder}: there are no shards (*.tar).")
    left = [shard for shard in shards if overwrite or not has_index_to_stream(shard)]
    with Display(console, "indexing", len(left), unit="shard") as display:
        for number, shard in enumerate(left, 1):
            with atomic_file(shard.with_name(index_name(shard.name))) as file:
                file.write(index_to_stream(shard))
            display.update(number)
    return [str(shard) for shard in left]
