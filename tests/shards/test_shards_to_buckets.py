"""Shards that are written into a bucket are those of a folder, and come with their indexes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from buckets import Bucket, failing, running_bucket
from PIL import Image
from rich.console import Console

from distill_mtl import remote_files
from distill_mtl.data.index import index_name, streamed_index
from distill_mtl.data.shard_files import Shard, find_shards, find_streamed
from distill_mtl.errors import ShardError
from distill_mtl.jobs.index import index_shards
from distill_mtl.jobs.report import write_report
from distill_mtl.jobs.shards import shards_from_folder
from distill_mtl.shards.image_folders import folder_rows
from distill_mtl.shards.shard_summary import recipe_lines
from distill_mtl.shards.shard_writer import write_shards
from distill_mtl.training.run_bucket import RunBucket

ROWS = 7


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with running_bucket() as running:
        yield running


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DISTILL_MTL_CACHE", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    for row in range(ROWS):
        place = tmp_path / "pictures" / ("cat" if row % 2 else "dog") / f"{row}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (6, 6, 3)).astype(np.uint8)).save(place)
    return tmp_path / "pictures"


def content(url: str) -> bytes:
    return remote_files.read(url, "test", 1 << 20)


def test_the_objects_are_the_files_of_a_folder_with_indexes_and_nothing_stays_here(
    bucket: Bucket, pictures: Path, tmp_path: Path
) -> None:
    local = write_shards(folder_rows(pictures), tmp_path / "here", name="pets", rows_per_shard=3, workers=0)
    bucket.fault = failing(500, 2, "pets-000001.tar")
    to = f"{bucket.url}/written"
    written = shards_from_folder(pictures, to=to, name="pets", rows=3, workers=0, console=Console(quiet=True))
    assert list(written.shards) == [f"{to}/pets-00000{number}.tar" for number in range(3)]
    assert f"{to}/pets-{{000000..000002}}.tar" in recipe_lines(written)
    for path in local.shards:
        name = Path(path).name
        assert content(f"{to}/{name}") == Path(path).read_bytes()
        assert content(f"{to}/{name}.crc32") == Path(f"{path}.crc32").read_bytes()
    files = remote_files.list_folder(to, "test")
    rows = 0
    for number in range(3):
        shard = files[f"pets-00000{number}.tar"]
        index, _ = streamed_index(Shard(shard.url, tmp_path, shard, files[index_name(shard.name)]), "test")
        rows += len(index)
    assert rows == ROWS
    assert not list((tmp_path / "cache").rglob("*.tar"))


def test_the_same_command_continues_after_the_last_shard_that_arrived(
    bucket: Bucket, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = f"{bucket.url}/continued"
    bucket.fault = failing(500, 10**6, "pets-000001.tar")
    with pytest.raises(
        ShardError, match=r"--to: s3://pets/continued/pets-000001\.tar cannot be written: 4 attempts"
    ):
        write_shards(folder_rows(pictures), to, name="pets", rows_per_shard=3, workers=0)
    bucket.fault = None
    monkeypatch.setenv("DISTILL_MTL_CACHE", str(tmp_path / "another machine"))
    written = write_shards(folder_rows(pictures), to, name="pets", rows_per_shard=3, workers=0)
    assert (written.kept, written.counts.rows) == (1, ROWS)
    with pytest.raises(ShardError, match="shards called pets are of another plan"):
        write_shards(folder_rows(pictures), to, name="pets", rows_per_shard=2, workers=0)
    again = write_shards(folder_rows(pictures), to, name="pets", rows_per_shard=5, workers=0, overwrite=True)
    assert len(again.shards) == 2
    assert "pets-000002.tar" not in bucket.names("continued")


def test_index_writes_what_is_missing_and_names_a_damaged_shard(
    bucket: Bucket, pictures: Path, tmp_path: Path
) -> None:
    local = write_shards(folder_rows(pictures), tmp_path / "here", name="pets", rows_per_shard=4, workers=0)
    for path in local.shards:
        bucket.put(f"plain/{Path(path).name}", Path(path))
    quiet = Console(quiet=True)
    to = f"{bucket.url}/plain"
    assert index_shards([to], console=quiet) == [f"{to}/pets-00000{number}.tar" for number in (0, 1)]
    assert index_shards([f"{to}/pets-{{000000..000001}}.tar"], console=quiet) == []
    bucket.put("plain/pets-000000.tar", Path(local.shards[0]).read_bytes()[:3000])
    with pytest.raises(ShardError, match=r"^s3://pets/plain/pets-000000\.tar: the shard is cut or damaged"):
        index_shards([to], console=quiet)
    here = [str(tmp_path / "here")]
    assert [len(index_shards(here, console=quiet, overwrite=again)) for again in (False, False, True)] == [
        2,
        0,
        2,
    ]
    with pytest.raises(ShardError, match="there are no shards"):
        index_shards([f"{bucket.url}/nothing"], console=quiet)


@pytest.mark.parametrize(
    "what", ["index", "index of names", "--to", "--out", "data", "data, streamed", "report"]
)
def test_a_bucket_that_does_not_exist_is_named_with_its_server(
    bucket: Bucket, pictures: Path, what: str
) -> None:
    quiet = Console(quiet=True)
    work: dict[str, Callable[[], object]] = {
        "index": lambda: index_shards(["s3://nobucket/"], console=quiet),
        "index of names": lambda: index_shards(["s3://nobucket/a/x.tar"], console=quiet),
        "--to": lambda: write_shards(
            folder_rows(pictures), "s3://nobucket/x", name="pets", rows_per_shard=3, workers=0
        ),
        "--out": RunBucket("s3://nobucket/run").refuse_unwritable,
        "data": lambda: find_shards("s3://nobucket/{x,y}.tar", "data.pets.shards"),
        "data, streamed": lambda: find_streamed("s3://nobucket/*.tar", "data.pets.shards"),
        "report": lambda: write_report(["s3://nobucket/run"], console=quiet),
    }
    key = {"data": "data.pets.shards", "data, streamed": "data.pets.shards", "report": "--out"}.get(
        what, what
    )
    where = rf"there is no bucket 'nobucket' at http://127.0.0.1:{bucket.port}\. Check its name"
    with pytest.raises(ShardError, match=rf"^{key.partition(' ')[0]}: 's3://nobucket.*: {where}"):
        work[what]()


def test_a_bucket_that_one_may_not_read_says_so(bucket: Bucket, pictures: Path) -> None:
    bucket.fault = failing(403, 10**6)
    with pytest.raises(ShardError, match=r"index: 's3://pets/x' cannot be listed .* Access is denied: check"):
        index_shards([f"{bucket.url}/x"], console=Console(quiet=True))
    bucket.fault = None
