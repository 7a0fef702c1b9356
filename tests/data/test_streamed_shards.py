"""Shards that stay in a bucket give the rows that they give from the disk, whatever the server does."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from buckets import Bucket, cutting, failing, running_bucket, silent, web_server
from data_shards import KINDS, pets, recipe, write

from distill_mtl import remote_files
from distill_mtl.data import DataSettings, Sources, open_sources
from distill_mtl.data.batch import Batch
from distill_mtl.data.index import index_name, index_to_stream
from distill_mtl.errors import ShardError, UserError

ROWS, SHARDS = 6, 5


@pytest.fixture(scope="module")
def server() -> Iterator[Bucket]:
    with running_bucket() as bucket:
        yield bucket


@pytest.fixture
def bucket(server: Bucket, tmp_path: Path) -> Bucket:
    """The server with five training shards, one to validate and one to test, and their indexes."""
    server.fault, server.delay = None, 0.0
    names = [f"pets-{number}" for number in range(SHARDS)] + ["pets-val", "pets-test"]
    for number, name in enumerate(names):
        shard = write(tmp_path / "pets" / f"{name}.tar", pets(ROWS, first=ROWS * number))
        server.put(f"{name}.tar", shard)
        server.put(index_name(f"{name}.tar"), index_to_stream(shard))
    server.requests.clear()
    return server


def opened(place: str, **options: Any) -> Sources:
    section = {
        "shards": f"{place}/pets-{{0..{SHARDS - 1}}}.tar",
        "split": {"validation": f"{place}/pets-val.tar", "test": f"{place}/pets-test.tar"},
        "labels": {"pet": {"member": "cls"}},
        "order": "windows",
        "window": 1,
        **options,
    }
    wanted = recipe({"pets": section}, stream={"lanes": 1})
    return open_sources(DataSettings.of(wanted), KINDS, (8, 8))


def shard_size(tmp_path: Path) -> int:
    return (tmp_path / "pets" / "pets-0.tar").stat().st_size


def store_for(shards: float, tmp_path: Path) -> str:
    return f"{shards * shard_size(tmp_path) / 1e3:.3f}kB"


def assert_same(ours: list[Batch], expected: list[Batch]) -> None:
    assert len(ours) == len(expected)
    for one, other in zip(ours, expected, strict=True):
        assert one.keys == other.keys
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels["pet"], other.labels["pet"])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_store_smaller_than_the_data_gives_the_same_batches(
    bucket: Bucket, tmp_path: Path, workers: int
) -> None:
    local = list(opened(str(tmp_path / "pets")).stream(steps=6))
    sources = opened(bucket.url, store=store_for(2.5, tmp_path))
    assert_same(list(sources.stream(steps=6, workers=workers)), local)
    store = sources.opened[0].store
    assert store is not None
    assert 0 < len(store.held()) <= 2


def test_rows_to_evaluate_come_on_demand(bucket: Bucket, tmp_path: Path) -> None:
    local = list(opened(str(tmp_path / "pets")).labelled("pet", "test", 4))
    sources = opened(bucket.url, store=store_for(1, tmp_path))
    assert_same(list(sources.labelled("pet", "test", 4)), local)
    fetched = [request for request in bucket.requests if ".tar" in request and "index" not in request]
    assert not any("pets-0" in request for request in fetched), "nothing else was read"


@pytest.mark.parametrize(
    "fault", [failing(500, 3), cutting(2, "pets-1.tar"), failing(503, 2, "pets-3.tar.index")]
)
def test_a_server_that_fails_now_and_then_changes_nothing(bucket: Bucket, tmp_path: Path, fault: Any) -> None:
    local = list(opened(str(tmp_path / "pets")).stream(steps=4))
    bucket.fault = fault
    assert_same(list(opened(bucket.url, store=store_for(5, tmp_path)).stream(steps=4)), local)


def test_an_answer_that_does_not_come_is_asked_for_again(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = list(opened(str(tmp_path / "pets")).stream(steps=4))
    monkeypatch.setattr(remote_files, "SLOW", 0.3)
    bucket.fault = silent(2, "pets-1.tar", 1.0)
    assert_same(list(opened(bucket.url, store=store_for(5, tmp_path)).stream(steps=4)), local)


def test_shards_of_a_plain_web_server_are_streamed_and_known_by_their_times(tmp_path: Path) -> None:
    for number, name in enumerate(
        ["pets-0", "pets-1", "pets-2", "pets-3", "pets-4", "pets-val", "pets-test"]
    ):
        shard = write(tmp_path / "pets" / f"{name}.tar", pets(ROWS, first=ROWS * number))
        shard.with_name(index_name(shard.name)).write_bytes(index_to_stream(shard))
    local = list(opened(str(tmp_path / "pets")).stream(steps=4))
    with web_server(tmp_path / "pets") as url:
        sources = opened(url, store=store_for(2, tmp_path))
        assert_same(list(sources.stream(steps=4)), local)
        for number in range(SHARDS):
            os.utime(tmp_path / "pets" / f"pets-{number}.tar", (0, 0))
        with pytest.raises(
            ShardError,
            match=r"http://.*\.tar was replaced: it was 30720 bytes, .* and is 30720 bytes, .* 1970 .* now",
        ):
            list(sources.stream(steps=20))


def test_a_server_that_is_down_is_said_after_all_attempts(bucket: Bucket, tmp_path: Path) -> None:
    sources = opened(bucket.url, store=store_for(5, tmp_path))
    bucket.fault = failing(500, 10**6)
    with pytest.raises(
        ShardError, match=r"data\.pets: s3://pets/pets-\d\.tar cannot be fetched: 4 attempts in"
    ):
        list(sources.stream(steps=4))
    bucket.fault = None
    assert len(list(sources.stream(steps=4))) == 4


def test_an_object_that_is_replaced_half_way_stops_it_by_name(bucket: Bucket, tmp_path: Path) -> None:
    sources = opened(bucket.url, store=store_for(1, tmp_path))
    for number in range(SHARDS):
        bucket.put(f"pets-{number}.tar", write(tmp_path / "other.tar", pets(ROWS, first=900)))
    with pytest.raises(
        ShardError, match=r"data\.pets: s3://pets/pets-\d\.tar was replaced: it was .* bytes with ETag"
    ):
        list(sources.stream(steps=4))


def test_bytes_that_are_not_those_of_the_index_are_never_rows(bucket: Bucket, tmp_path: Path) -> None:
    content = bytearray((tmp_path / "pets" / "pets-2.tar").read_bytes())
    content[1500] ^= 1
    bucket.put("pets-2.tar", bytes(content))  # of the same size, and there when the run begins
    sources = opened(bucket.url, store=store_for(5, tmp_path))
    with pytest.raises(ShardError, match=r"s3://pets/pets-2\.tar is damaged.*distill-mtl index s3://pets`"):
        list(sources.stream(steps=6))
    store = sources.opened[0].store
    assert store is not None
    assert not any(path.endswith("pets-2.tar") for path in store.held())


def test_what_is_missing_or_of_another_shard_says_how_to_write_it(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put(index_name("pets-1.tar"), index_to_stream(write(tmp_path / "other.tar", pets(ROWS + 9))))
    with pytest.raises(
        ShardError, match=r"was made for a shard of .* Write it again with `distill-mtl index s3://pets`"
    ):
        opened(bucket.url, store="1MB")
    remote_files.remove(f"{bucket.url}/{index_name('pets-1.tar')}", "test")
    with pytest.raises(
        ShardError, match=r"1 shard has no index beside it \(s3://pets/pets-1\.tar\).*distill-mtl index"
    ):
        opened(bucket.url, store="1MB")
    remote_files.remove(f"{bucket.url}/pets-1.tar", "test")
    with pytest.raises(ShardError, match=r"1 shard is missing: s3://pets/pets-1\.tar"):
        opened(bucket.url, store="1MB")


def test_a_store_that_cannot_work_is_refused_by_its_key(bucket: Bucket, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"data\.pets\.store: 2 kB cannot hold s3://pets/pets-0\.tar"):
        opened(bucket.url, store="2kB")
    with pytest.raises(ShardError, match=r"data\.pets\.shards: '.*pets-0\.tar' is not in a bucket"):
        opened(str(tmp_path / "pets"), store="1MB")
    with pytest.raises(UserError, match="compressed"):
        opened(bucket.url, shards=f"{bucket.url}/a.tgz", store="1MB")


def test_a_store_smaller_than_what_is_read_at_once_is_refused(bucket: Bucket, tmp_path: Path) -> None:
    with pytest.raises(
        ShardError, match=r"data\.pets\.store: .* the 3 shards .* \(1 lanes draw from 3 shards each\)"
    ):
        opened(bucket.url, store=store_for(2, tmp_path), window=3).stream(steps=1)
    with pytest.raises(
        ShardError, match=r"the 4 shards .*\(1 lanes draw from 2 shards each, for rows with labels"
    ):
        opened(bucket.url, store=store_for(3, tmp_path), window=2, limit={"rows": 20}).stream(steps=1)
    with pytest.raises(
        ShardError, match="the 5 shards .*order: rows draws from all shards at once.* order: windows"
    ):
        opened(bucket.url, store=store_for(2, tmp_path), order="rows").stream(steps=1)


def test_what_is_needed_last_is_dropped_first(bucket: Bucket, tmp_path: Path) -> None:
    source = opened(bucket.url, store=store_for(3, tmp_path)).opened[0]
    store, (first, second, third, fourth, *_) = source.store, source.shard_paths()
    assert store is not None
    for path in (first, second, third):
        store.bring(path)
    store.put_in_order([fourth, first, third, second])
    store.bring(fourth)
    assert store.held() == {fourth, first, third}
    store.put_in_order([third, fourth])
    store.bring(second)
    assert store.held() == {second, third, fourth}, "what no order names goes before what one does"


def test_two_processes_share_a_store_without_half_files(bucket: Bucket, tmp_path: Path) -> None:
    """Two children read all rows at once through a store of one shard; each gets whole rows."""
    local = list(opened(str(tmp_path / "pets")).stream(steps=4))
    children = []
    for _ in range(2):
        if (child := os.fork()) == 0:
            status = 1
            try:
                assert_same(list(opened(bucket.url, store=store_for(1, tmp_path)).stream(steps=4)), local)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
