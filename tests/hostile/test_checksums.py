"""A bit that flips in a format without checksums of its own is found, and the row named."""

import io
import os
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from distill_mtl.checks.before_training import check_every_row
from distill_mtl.data import DataSettings, Sources, open_sources
from distill_mtl.data.checksums import SUFFIX
from distill_mtl.data.decode import read_image
from distill_mtl.data.index import load_index
from distill_mtl.data.shard_files import find_shards
from distill_mtl.errors import ShardError
from distill_mtl.files import cache_folder
from distill_mtl.recipe.schema import SourceSection
from distill_mtl.shards import folder_rows, write_shards
from distill_mtl.tasks.base import build_kind


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Two classes of six JPEGs in one shard."""
    for name in ("cat", "dog"):
        for number in range(6):
            path = tmp_path / "photos" / name / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.RandomState(number).randint(0, 256, (16, 16, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(path, quality=95)
    return write_shards(folder_rows(tmp_path / "photos"), tmp_path / "s", name="pets", workers=0).shards[0]


def sources(shard: Path | str, **options: str) -> Sources:
    section = SourceSection.model_validate(
        {
            "shards": str(shard),
            "labels": {"pet": {"member": "cls"}},
            **options,
        }
    )
    kinds = {"pet": build_kind("classification", ("cat", "dog"))}
    return open_sources(DataSettings({"pets": section}), kinds, (16, 16), every_set=False)


def flip_a_pixel(shard: Path, row: int = 7, ending: str = "jpg") -> str:
    """Another byte late in a picture, and no trace in the file's times; returns the row's key."""
    index = load_index(shard)
    column = index.endings.index(ending)
    at = int(index.offsets[row, column] + index.sizes[row, column] * 3 // 4)
    times = shard.stat()
    content = bytearray(shard.read_bytes())
    before = bytes(content)
    for place in range(at, at + 40):
        content[place] ^= 4
        start = int(index.offsets[row, column])
        try:
            same = read_image(bytes(content[start : start + int(index.sizes[row, column])]))
        except ValueError:
            same = None
        if same is not None:
            break
        content[:] = before
    assert bytes(content) != before
    shard.write_bytes(content)
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    return index.key(*index.key_spans()[row].tolist())


def said(opened: Sources) -> str:
    console = Console(file=io.StringIO(), width=200)
    check_every_row(opened, 0, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_whole_shards_pass_and_their_checksums_are_counted(shard: Path) -> None:
    assert "12 pictures and their labels; 12 rows have checksums" in said(sources(shard))
    shard.with_name(shard.name + SUFFIX).unlink()
    assert "12 pictures and their labels; no shard has checksums" in said(sources(shard))


@pytest.mark.parametrize("keep_index", [True, False])
def test_other_pixels_of_a_picture_that_still_decodes_are_found(shard: Path, keep_index: bool) -> None:
    key = flip_a_pixel(shard)
    if not keep_index:
        shard.with_name(shard.name + ".index.npz").unlink()
    with pytest.raises(ShardError, match=rf"pets-000000\.tar, row {key}: jpg: .*checksum"):
        said(sources(shard, corrupt="skip"))


def test_a_changed_label_is_found(shard: Path) -> None:
    index = load_index(shard)
    at = int(index.offsets[3, index.endings.index("cls")])
    content = bytearray(shard.read_bytes())
    content[at] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ShardError, match=r": cls: .*checksum"):
        said(sources(shard))


def test_a_shard_without_checksums_is_read_row_by_row_all_the_same(shard: Path) -> None:
    shard.with_name(shard.name + SUFFIX).unlink()
    index = load_index(shard)
    content = bytearray(shard.read_bytes())
    start = int(index.offsets[2, index.endings.index("jpg")])
    content[start : start + 40] = bytes(40)
    shard.write_bytes(content)
    with pytest.raises(ShardError, match=r"1 row is damaged:\n.*cannot be decoded"):
        said(sources(shard))
    assert "1 pictures cannot be decoded and are skipped" in said(sources(shard, corrupt="skip"))


def test_a_cut_file_of_checksums_is_refused(shard: Path) -> None:
    beside = shard.with_name(shard.name + SUFFIX)
    beside.write_bytes(beside.read_bytes()[:-30])
    with pytest.raises(ShardError, match="checksums is cut or damaged"):
        sources(shard)


def remote(shard: Path, name: str, *, checksums: bool = True) -> str:
    memory = fsspec.filesystem("memory")
    memory.pipe(f"/{name}/pets.tar", shard.read_bytes())
    if checksums:
        memory.pipe(f"/{name}/pets.tar{SUFFIX}", shard.with_name(shard.name + SUFFIX).read_bytes())
    return f"memory://{name}/pets.tar"


def test_a_fetched_shard_is_compared_with_its_checksums(shard: Path) -> None:
    url = remote(shard, "whole")
    fetched = find_shards(url, "data.pets.shards")[0].path
    assert (load_index(fetched).checksums >= 0).all()
    key = flip_a_pixel(shard)
    url = remote(shard, "damaged")
    before = set((cache_folder() / "shards").iterdir())
    with pytest.raises(ShardError, match=rf"memory://damaged/pets\.tar: 1 members are damaged.*{key}\.jpg"):
        find_shards(url, "data.pets.shards")
    assert set((cache_folder() / "shards").iterdir()) == before, "nothing damaged is kept"


def test_what_a_server_says_instead_of_checksums_is_not_believed(shard: Path) -> None:
    url = remote(shard, "elsewhere", checksums=False)
    fsspec.filesystem("memory").pipe(f"/elsewhere/pets.tar{SUFFIX}", b"<html>not found</html>")
    assert (load_index(find_shards(url, "data.pets.shards")[0].path).checksums < 0).all()
