"""The cache that a Ray cluster fills is the cache of one process; one small cluster serves this whole file."""

import http.server
import json
import pickle
import re
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import cache_world
import pytest
import ray_cluster
import ray_world
import toy_world
from buckets import Bucket, failing
from rich.console import Console

from distill_mtl import load_recipe, remote_files
from distill_mtl.data.index import index_name, index_to_stream
from distill_mtl.errors import CacheError, Stopped, UserError
from distill_mtl.jobs import cache as cache_module
from distill_mtl.jobs.cache import write_cache
from distill_mtl.ray_tasks import connect
from distill_mtl.recipe import Recipe
from distill_mtl.targets.cache_pieces import CachePiece, PieceWriter

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
QUIET = Console(quiet=True)
FILES = 8  # four shards, two teachers


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[Bucket]:
    with ray_cluster.beside_bucket() as bucket:
        yield bucket


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return ray_world.make(tmp_path / "world")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in cache_world.sidecars(folder)}


def test_the_files_are_those_of_one_process_and_a_second_start_writes_what_is_missing(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cache(recipe, cache_world.VIEWS, console=QUIET)
    alone = contents(recipe.parent)
    assert len(alone) == FILES
    for path in cache_world.sidecars(recipe.parent):
        path.unlink()
    write_cache(recipe, cache_world.VIEWS, ray="local")
    assert contents(recipe.parent) == alone
    assert "320 answers in" in capsys.readouterr().out, "two teachers about 160 rows"
    missing, *kept = cache_world.sidecars(recipe.parent)
    missing.unlink()
    times = {path: path.stat().st_mtime_ns for path in kept}
    write_cache(recipe, cache_world.VIEWS, ray="local")
    assert {path: path.stat().st_mtime_ns for path in kept} == times
    assert contents(recipe.parent) == alone
    assert "40 answers in" in capsys.readouterr().out
    assert not list(recipe.parent.glob(".*.part"))


def test_a_row_that_cannot_be_read_is_one_line_with_teacher_shard_and_node(recipe: Path) -> None:
    toy_world.corrupt(recipe.parent / "hue-train-1.tar", 7)
    with pytest.raises(UserError) as caught:
        write_cache(recipe, ["training.teachers_on=missing"], ray="local", console=QUIET)
    said = str(caught.value)
    assert re.match(r"tasks\.(hue|shape)\.teacher, /.*/hue-train-1\.tar, on node \S+: data\.hue: ", said)
    assert "row hue-train-1-007" in said
    assert "\n" not in said
    assert "Traceback" not in said


def test_a_stopped_job_keeps_what_is_finished(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class StopLater(cache_module.StopRequest):
        @property
        def requested(self) -> bool:
            return bool(cache_world.sidecars(recipe.parent))

    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "StopRequest", StopLater)
        with pytest.raises(Stopped, match=r"the same command continues: \d+ of 320 answers are left"):
            write_cache(recipe, ray="local", console=QUIET)
    finished = contents(recipe.parent)
    assert finished
    assert not list(recipe.parent.glob(".*.part"))
    write_cache(recipe, ray="local", console=QUIET)
    assert finished.items() <= contents(recipe.parent).items()
    assert len(contents(recipe.parent)) == FILES


# ---- in a bucket ------------------------------------------------------------------------------------
def in_bucket(recipe: Path, bucket: Bucket) -> Recipe:
    """The recipe with its training shards in the bucket."""
    for shard in recipe.parent.glob("*.tar"):
        bucket.put(f"data/{shard.name}", shard)
        bucket.put(f"data/{index_name(shard.name)}", index_to_stream(shard))
    loaded = load_recipe(recipe)
    text = loaded.model_dump_json(by_alias=True).replace(f"{recipe.parent}/hue", f"{bucket.url}/data/hue")
    text = text.replace(f"{recipe.parent}/shape", f"{bucket.url}/data/shape")
    return loaded.model_validate(json.loads(text.replace('"store":null', '"store":"1MB"')))


def test_sidecars_of_a_bucket_go_there_and_another_machine_has_nothing_left_to_do(
    recipe: Path, server: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cache(recipe, console=QUIET)
    alone = contents(recipe.parent)
    remote = in_bucket(recipe, server)
    monkeypatch.setenv("DISTILL_MTL_CACHE", str(tmp_path / "first"))
    server.fault = failing(403, 1000, ".safetensors", "PUT")
    with pytest.raises(UserError, match=r"tasks\.hue\.teacher, s3://pets/data/hue.*cannot be written"):
        write_cache(remote, ray="local", console=QUIET)
    server.fault = None
    write_cache(remote, ray="local", console=QUIET)
    sidecars = [name for name in server.names("data") if name.endswith(".safetensors")]
    there = {name: remote_files.read(f"{server.url}/data/{name}", "test", 1 << 20) for name in sidecars}
    assert there == alone
    monkeypatch.setenv("DISTILL_MTL_CACHE", str(tmp_path / "second"))
    server.requests.clear()
    write_cache(remote, ray="local", console=QUIET)
    assert not [request for request in server.requests if request.startswith("PUT")]


# ---- what a node lacks ------------------------------------------------------------------------------
def sent(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[PieceWriter, list[CachePiece]]:
    """What a job sends to the nodes, as it arrives there."""
    found: list[tuple[PieceWriter, list[CachePiece]]] = []

    def keep(
        self: object, work: object, writer: PieceWriter, pieces: list[CachePiece], **more: object
    ) -> Iterator[tuple[CachePiece, str]]:
        found.append(pickle.loads(pickle.dumps((writer, pieces))))
        yield from ()

    monkeypatch.setattr("distill_mtl.ray_tasks.RayCluster.run", keep)
    with pytest.raises((CacheError, Stopped)):
        write_cache(recipe, ray="local", console=QUIET)
    return found[0]


def test_a_node_without_the_shard_or_with_another_teacher_says_so(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    writer, pieces = sent(recipe, monkeypatch)
    first, last = pieces[0], pieces[-1]
    shard = first.unit.shard.path
    shutil.copy(shard, tmp_path / "copy")
    shard.write_bytes(shard.read_bytes() + bytes(10240))
    with pytest.raises(CacheError, match=r"hue-train\.tar has [\d,]+ bytes there, and [\d,]+ on the machine"):
        writer.write(first)
    shard.unlink()
    with pytest.raises(CacheError, match=r"hue-train\.tar cannot be read there.*every node sees.*bucket"):
        writer.write(first)
    shutil.move(tmp_path / "copy", shard)
    writer.write(first)
    with pytest.raises(CacheError, match=r"node far-away has written it, and it is not on this machine"):
        last.refuse_invisible("far-away")
    ray_world.teacher(recipe.parent, "shape", seed=5)
    with pytest.raises(CacheError, match=r"model\.safetensors \(sha256 \w+\) is another teacher there"):
        writer.write(last)


# ---- connecting -------------------------------------------------------------------------------------
@pytest.fixture
def unconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a program that has not joined a cluster."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)


@pytest.mark.usefixtures("unconnected")
def test_an_address_without_a_cluster_is_one_line_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for address, said in (
        (
            f"127.0.0.1:{port}",
            rf"^--ray 127\.0\.0\.1:{port}: nothing answers there \(.*refused\)\. Start the",
        ),
        ("somewhere", r"--ray somewhere: expected local, auto, or HOST:PORT"),
        ("ray://head:10001", r"started on a machine of the cluster, with --ray auto"),
    ):
        with pytest.raises(UserError, match=said), connect(address):
            pass
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    with (
        pytest.raises(UserError, match="is not the head of a Ray cluster.*8265"),
        connect(f"127.0.0.1:{web.server_port}"),
    ):
        pass
    web.shutdown()
    web.server_close()
    monkeypatch.setattr(ray, "init", lambda **options: sys.exit(15))
    with pytest.raises(UserError, match="--ray auto: the cluster does not answer"), connect("auto"):
        pass


def test_a_launcher_and_a_missing_package_are_refused(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        with pytest.raises(UserError, match="Ray starts the processes itself"):
            write_cache(recipe, ray="local", console=QUIET)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'distill_mtl\[ray\]'"):
        write_cache(recipe, ray="local", console=QUIET)
