"""The index of a shard is kept, trusted only for the shard it was made from, and never in the way."""

import os
from pathlib import Path

import numpy as np
import pytest
from data_shards import pets, write

from distill_mtl.data.index import load_index
from distill_mtl.data.open_files import OpenFiles
from distill_mtl.errors import ShardError
from distill_mtl.files import cache_folder


def payload(index, row: int, ending: str) -> bytes:
    column = index.endings.index(ending)
    with open(index.path, "rb") as file:
        file.seek(index.offsets[row, column])
        return file.read(index.sizes[row, column])


def test_an_index_is_kept_beside_the_shard_and_says_the_same_when_read_again(tmp_path: Path) -> None:
    shard = write(tmp_path / "pets.tar", [*pets(5), {"__key__": "ä/é", "png": b"p"}])
    first = load_index(shard)
    assert (tmp_path / "pets.tar.index.npz").exists()
    again = load_index(shard)
    assert [again.key(*span) for span in again.key_spans()] == ["0000", "0001", "0002", "0003", "0004", "ä/é"]
    assert again.endings == first.endings == ("cls", "png")
    assert np.array_equal(again.offsets, first.offsets)
    assert payload(again, 3, "cls") == b"0"
    assert again.sizes[5, 0] == -1, "the last row has no cls"


def test_an_index_of_another_version_of_the_shard_is_not_used(tmp_path: Path) -> None:
    shard = write(tmp_path / "pets.tar", pets(5))
    load_index(shard)
    write(shard, pets(7, first=20))
    os.utime(shard, ns=(1, 1))
    index = load_index(shard)
    assert [index.key(*index.key_spans()[row]) for row in (0, 6)] == ["0020", "0026"]


def test_an_unreadable_index_is_made_again(tmp_path: Path) -> None:
    shard = write(tmp_path / "pets.tar", pets(5))
    load_index(shard)
    kept = tmp_path / "pets.tar.index.npz"
    kept.write_bytes(kept.read_bytes()[:200])
    assert len(load_index(shard)) == 5
    with np.load(kept) as arrays:
        assert len(arrays["key_ends"]) == 5


def test_an_index_goes_to_the_cache_where_the_folder_cannot_be_written_to(tmp_path: Path) -> None:
    shard = write(tmp_path / "data" / "pets.tar", pets(5))
    # A folder in its place stops the file even where the tests run as root.
    (tmp_path / "data" / "pets.tar.index.npz").mkdir()
    assert len(load_index(shard)) == 5
    assert len(list(cache_folder().rglob("pets.tar.index.npz"))) == 1
    assert len(load_index(shard)) == 5
    assert not list(tmp_path.rglob("*.part")), "nothing half-made stays behind"


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="absent.tar"):
        load_index(tmp_path / "absent.tar")


def test_many_shards_are_read_through_few_open_files(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / str(number)).write_bytes(b"%04d" % number)
    files = OpenFiles()
    before = len(os.listdir("/dev/fd"))
    for number in [*range(300), *range(300)]:
        assert files.read(str(tmp_path / str(number)), 1, 3) == b"%03d" % number
    assert len(os.listdir("/dev/fd")) - before <= 128
    files.close()
    assert len(os.listdir("/dev/fd")) == before


def test_a_shard_that_shrank_while_it_was_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"abc")
    with pytest.raises(ShardError, match="ends before byte 5"):
        OpenFiles().read(str(tmp_path / "short"), 1, 4)
