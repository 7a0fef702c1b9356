"""Patterns become shards; what is missing, doubled, remote or compressed is dealt with."""

import gzip
import threading
from pathlib import Path

import fsspec
import pytest
from data_shards import pets, write

from distill_mtl.data.batch import ProcessShare
from distill_mtl.data.index import load_index
from distill_mtl.data.shard_files import bring, find_shards, shard_names
from distill_mtl.errors import ShardError
from distill_mtl.files import cache_folder, wait_for


@pytest.fixture
def remote():
    """An in-memory file system, empty before and after."""
    system = fsspec.filesystem("memory")
    yield system
    for path in system.ls("/", detail=False):
        system.rm(path, recursive=True)


def names(patterns: str | list[str]) -> list[str]:
    return [shard.name for shard in find_shards(patterns, "data.pets.shards")]


def test_braces_and_stars_are_expanded_in_order(tmp_path: Path) -> None:
    for name in ("a-008", "a-009", "a-010", "b-x", "b-y"):
        write(tmp_path / f"{name}.tar", pets(1))
    assert names(str(tmp_path / "a-{008..010}.tar")) == ["a-008", "a-009", "a-010"]
    assert names([str(tmp_path / "b-{y,x}.tar"), f"file://{tmp_path}/a-*8.tar"]) == ["b-y", "b-x", "a-008"]


def test_all_missing_shards_are_listed_in_one_error_with_the_key(tmp_path: Path) -> None:
    write(tmp_path / "a-1.tar", pets(1))
    with pytest.raises(ShardError) as caught:
        find_shards([str(tmp_path / "a-{0..2}.tar"), str(tmp_path / "c*.tar")], "data.pets.shards")
    message = str(caught.value)
    assert message.startswith("data.pets.shards: 3 shards are missing")
    assert all(name in message for name in ("a-0.tar", "a-2.tar", "c*.tar"))
    assert "a-1.tar" not in message


@pytest.mark.parametrize(
    ("pattern", "finding"),
    [("pipe:cat a.tar", "would run a command"), ("a-{0..2.tar", "brace"), ("nofs://a", "nofs")],
)
def test_patterns_that_cannot_be_read_are_refused(pattern: str, finding: str) -> None:
    with pytest.raises(ShardError, match=finding):
        find_shards(pattern, "data.pets.shards")


def test_shards_of_one_name_are_told_apart_by_their_folders() -> None:
    assert shard_names(["/d/a-0.tar", "/d/a-1.tar"], "data.pets") == ["a-0", "a-1"]
    assert shard_names(["/d/train/0.tar", "/d/test/0.tar"], "data.pets") == ["train/0", "test/0"]
    with pytest.raises(ShardError, match="named more than once"):
        shard_names(["/d/a-0.tar", "/d/a-1.tar", "/d/a-0.tar"], "data.pets")


def test_a_compressed_shard_is_unpacked_into_the_cache_and_again_when_it_changed(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.tar", pets(4))
    packed = tmp_path / "pets.tar.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    (shard,) = find_shards(str(packed), "data.pets.shards")
    assert shard.name == "pets"
    assert cache_folder() in shard.path.parents
    assert shard.path.read_bytes() == plain.read_bytes()
    packed.write_bytes(gzip.compress(write(plain, pets(6)).read_bytes()))
    (changed,) = find_shards(str(packed), "data.pets.shards")
    assert len(load_index(changed.path)) == 6


def test_a_cut_compressed_shard_leaves_nothing_behind(tmp_path: Path) -> None:
    packed = tmp_path / "pets.tgz"
    packed.write_bytes(gzip.compress(write(tmp_path / "plain.tar", pets(4)).read_bytes())[:-20])
    with pytest.raises(ShardError, match=r"pets\.tgz'? could not be brought"):
        find_shards(str(packed), "data.pets.shards")
    assert not any(path.is_file() for path in cache_folder().rglob("*"))


def test_remote_shards_come_to_the_cache_once(tmp_path: Path, remote) -> None:
    for number in (0, 1):
        remote.pipe(f"/store/a-{number}.tar", write(tmp_path / "a.tar", pets(3 + number)).read_bytes())
    shards = find_shards("memory://store/a-{0..1}.tar", "data.pets.shards")
    assert [len(load_index(shard.path)) for shard in shards] == [3, 4]
    assert [shard.path for shard in find_shards("memory://store/a-*.tar", "x")] == [
        shard.path for shard in shards
    ]
    with pytest.raises(ShardError, match=r"1 shard is missing: memory://store/a-2\.tar"):
        find_shards("memory://store/a-{0..2}.tar", "data.pets.shards")


def test_each_process_fetches_its_share_and_waits_for_the_others(tmp_path: Path, remote) -> None:
    urls = [f"memory://store/{number}.tar" for number in range(4)]
    for url in urls:
        remote.pipe(url, write(tmp_path / "a.tar", pets(2)).read_bytes())
    with pytest.raises(ShardError, match="another process, which has made no progress"):
        bring(urls, "data.pets.shards", ProcessShare(1, 2), patience=0.3)
    assert len(list((cache_folder() / "shards").iterdir())) == 2, "its own two, and only those"
    other = threading.Thread(target=bring, args=(urls, "data.pets.shards", ProcessShare(0, 2)))
    other.start()
    paths = bring(urls, "data.pets.shards", ProcessShare(1, 2))
    other.join()
    assert [len(load_index(path)) for path in paths] == [2, 2, 2, 2]


def test_waiting_goes_on_while_the_other_process_makes_progress(tmp_path: Path) -> None:
    target, stop = tmp_path / "made" / "a.tar", threading.Event()
    target.parent.mkdir()

    def write_slowly() -> None:
        part = target.with_suffix(".part")
        for size in range(1, 12):
            part.write_bytes(b"x" * size)
            stop.wait(0.1)
        part.rename(target)

    writer = threading.Thread(target=write_slowly)
    writer.start()
    wait_for(target, "a.tar", patience=0.6)
    writer.join()
    assert target.read_bytes() == b"x" * 11
