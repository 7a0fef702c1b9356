"""A run whose shards and folder are in a bucket has the weights of a local one, to the bit."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_world
from buckets import Bucket, cutting, failing, running_bucket
from rich.console import Console

from distill_mtl import distill, evaluate, load_recipe, remote_files, write_cache
from distill_mtl.data.index import index_name, index_to_stream
from distill_mtl.errors import Stopped, UserError
from distill_mtl.jobs.report import write_report
from distill_mtl.training.run_bucket import COMMIT, RunBucket, run_at

SHARDS = 3
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe whose training rows are in three shards of each source."""
    recipe = toy_world.build(tmp_path_factory.mktemp("world"))
    generator = np.random.default_rng(1)
    for source, member in (("hue", "cls"), ("shape", "seg.png")):
        for number in range(SHARDS):
            toy_world.write_shard(recipe.parent / f"{source}-train-{number}.tar", generator, member)
        (recipe.parent / f"{source}-train.tar").unlink()
    text = recipe.read_text().replace("-train.tar", "-train-*.tar")
    text = text.replace("data: {", "data: {order: windows, window: 1, ")
    text = text.replace("    data:\n", "    data:\n      order: windows\n      window: 1\n")
    recipe.write_text(text.replace("training: {", "training: {stream: {lanes: 1}, "))
    return recipe


@pytest.fixture(scope="module")
def server(world: Path) -> Iterator[Bucket]:
    with running_bucket() as bucket:
        for shard in world.parent.glob("*.tar"):
            bucket.put(f"data/{shard.name}", shard)
            bucket.put(f"data/{index_name(shard.name)}", index_to_stream(shard))
        yield bucket


@pytest.fixture
def bucket(server: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setenv("DISTILL_MTL_CACHE", str(tmp_path / "cache"))
    server.fault = None
    return server


@pytest.fixture(scope="module")
def local(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("local") / "run"
    distill(world, out=out, console=QUIET)
    return out


def streamed(world: Path, bucket: Bucket) -> Any:
    """The recipe with its data in the bucket, and stores of one shard and a half."""
    recipe = load_recipe(world)
    size = 1.5 * (world.parent / "hue-train-0.tar").stat().st_size
    return recipe.model_validate(
        json.loads(
            recipe.model_dump_json(by_alias=True)
            .replace(f"{world.parent}/hue", f"{bucket.url}/data/hue")
            .replace(f"{world.parent}/shape", f"{bucket.url}/data/shape")
            .replace('"store":null', f'"store":"{size / 1e3:.1f}kB"')
        )
    )


def losses(metrics: bytes) -> list[Any]:
    return [(line["step"], line["tasks"]) for line in map(json.loads, metrics.splitlines())]


def assert_equal_runs(url: str, local: Path) -> None:
    for name in ("student/model.safetensors", "metrics.jsonl"):
        ours, expected = remote_files.read(f"{url}/{name}", "test", 1 << 30), (local / name).read_bytes()
        assert losses(ours) == losses(expected) if name == "metrics.jsonl" else ours == expected


def test_a_whole_run_through_a_failing_server_has_the_same_weights(
    world: Path, bucket: Bucket, local: Path
) -> None:
    faults = [failing(500, 3), cutting(2, "hue-train"), failing(503, 2, "checkpoints")]
    bucket.fault = lambda request, content: any(fault(request, content) for fault in faults)
    url = f"{bucket.url}/runs/whole"
    evaluation = distill(streamed(world, bucket), out=url, console=QUIET)
    bucket.fault = None
    assert_equal_runs(url, local)
    assert evaluation.tasks.keys() == {"hue", "shape"}
    pinned = json.loads(remote_files.read(f"{url}/shards.json", "test", 1 << 20))
    assert len(pinned["hue"]) == SHARDS + 2
    again = evaluate(url, console=QUIET)
    assert {task: one.student for task, one in again.tasks.items()} == {
        task: one.student for task, one in evaluation.tasks.items()
    }
    assert write_report([url], console=QUIET).is_file()
    with pytest.raises(UserError, match=r"^s3://pets/runs/whole already holds a run"):
        distill(streamed(world, bucket), out=url, console=QUIET)


def test_a_stopped_run_goes_on_on_another_machine_and_refuses_replaced_shards(
    world: Path, bucket: Bucket, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, recipe = f"{bucket.url}/runs/stopped", streamed(world, bucket)
    bucket.fault = failing(500, 10**6, "step_00000006")
    with pytest.raises(
        UserError, match=r"s3://pets/runs/stopped/checkpoints/step_00000006/.* cannot be written"
    ):
        distill(recipe, out=url, auto_resume=True, console=QUIET)
    bucket.fault = None
    monkeypatch.setenv("DISTILL_MTL_CACHE", str(tmp_path / "another machine"))
    shard = world.parent / "hue-train-0.tar"
    bucket.put("data/hue-train-0.tar", shard.read_bytes() + bytes(10240))
    bucket.put(f"data/{index_name(shard.name)}", index_to_stream(longer(shard, tmp_path)))
    with pytest.raises(
        UserError, match=r"data\.hue: s3://pets/data/hue-train-0\.tar was replaced since the run"
    ):
        distill(recipe, out=url, resume=True, console=QUIET)
    bucket.put("data/hue-train-0.tar", shard)
    bucket.put(f"data/{index_name(shard.name)}", index_to_stream(shard))
    distill(recipe, out=url, auto_resume=True, console=QUIET)
    assert_equal_runs(url, local)


def test_the_target_cache_lies_beside_the_shards_and_serves_another_machine(
    world: Path, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = shutil.copytree(world.parent, tmp_path / "here")
    (here / "toy.yaml").write_text(world.read_text().replace(str(world.parent), str(here)))
    write_cache(here / "toy.yaml", console=QUIET)
    distill(here / "toy.yaml", ["targets=cached"], out=tmp_path / "local", console=QUIET)
    recipe, url = streamed(world, bucket), f"{bucket.url}/runs/cached"
    write_cache(recipe, console=QUIET)
    sidecars = [name for name in bucket.names("data") if name.endswith(".safetensors")]
    assert len(sidecars) == 2 * 2 * SHARDS, "of each teacher about the rows of both sources"
    remote_files.remove(f"{bucket.url}/data/{sidecars[0]}", "test")  # as if it was written and never sent
    write_cache(recipe, console=QUIET)
    assert sidecars[0] in bucket.names("data")
    monkeypatch.setenv("DISTILL_MTL_CACHE", str(tmp_path / "another machine"))
    cached = recipe.model_copy(update={"targets": recipe.targets.model_copy(update={"from_": "cached"})})
    distill(cached, out=url, console=QUIET)
    assert_equal_runs(url, tmp_path / "local")
    for name in sidecars:
        remote_files.remove(f"{bucket.url}/data/{name}", "test")


def longer(shard: Path, tmp_path: Path) -> Path:
    """The same rows in a larger file."""
    copy = tmp_path / shard.name
    copy.write_bytes(shard.read_bytes() + bytes(10240))
    return copy


def write_and_stop(url: str) -> None:
    with run_at(url) as folder:
        (folder / "metrics.jsonl").write_text("12")
        raise Stopped("stopped.")


def test_what_is_not_committed_is_not_part_of_the_run(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunBucket(f"{bucket.url}/runs/commits")
    assert not run.bring()
    (run.folder / "checkpoints").mkdir(parents=True)
    (run.folder / "checkpoints" / "first").write_text("first")
    (run.folder / "metrics.jsonl").write_text("1")
    run.commit()
    (run.folder / "checkpoints" / "first").unlink()
    (run.folder / "checkpoints" / "second").write_text("second")
    bucket.fault = failing(500, 10**6, COMMIT, "PUT")
    with pytest.raises(UserError):
        run.commit()
    bucket.fault = None
    assert run.bring()
    assert [path.name for path in (run.folder / "checkpoints").iterdir()] == ["first"]
    (run.folder / "checkpoints" / "first").unlink()
    run.commit()
    assert bucket.names("runs/commits/checkpoints") == ["second"], "what no commit named stays"
    assert bucket.names("runs/commits") == [COMMIT, "metrics.jsonl"]
    with pytest.raises(Stopped):
        write_and_stop(run.url)
    assert remote_files.read(f"{run.url}/metrics.jsonl", "test", 9) == b"12"
    (run.folder / "third").write_text("third")
    with run.in_use(), pytest.raises(UserError, match=r"runs/commits is in use by another command"):
        write_report([run.url], console=QUIET)
    assert (run.folder / "third").exists(), "what a run has not committed yet stays"
    with pytest.raises(UserError, match="s3://pets/runs/none holds no run"):
        evaluate(f"{bucket.url}/runs/none", console=QUIET)


def machine(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> RunBucket:
    """The run as another machine sees it."""
    monkeypatch.setenv("DISTILL_MTL_CACHE", str(folder))
    run = RunBucket(url)
    run.bring()
    return run


def test_a_run_that_another_machine_resumed_stops_and_commits_nothing(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{bucket.url}/runs/owned"
    first = machine(url, tmp_path / "first", monkeypatch)
    first.take()
    (first.folder / "metrics.jsonl").write_text("first")
    first.commit()
    second = machine(url, tmp_path / "second", monkeypatch)
    reader = machine(url, tmp_path / "reader", monkeypatch)
    second.take()
    (first.folder / "metrics.jsonl").write_text("first, more")
    (first.folder / "checkpoint").write_text("first")
    said = rf"{url} belongs to another run since '20.* UTC': process {os.getpid()} on .* This one .* stops"
    with pytest.raises(UserError, match=said):
        first.commit()
    assert (first.folder / "checkpoint").read_text() == "first", "nothing is lost here"
    assert remote_files.read(f"{url}/metrics.jsonl", "test", 99) == b"first"
    (second.folder / "results.json").write_text("second")
    second.commit()
    (reader.folder / "report.html").write_text("of before")
    with pytest.raises(UserError, match="was written to by another command while this one ran"):
        reader.commit()
    reader.bring()
    (second.folder / "results.json").write_text("second, again")
    second.commit()
    (reader.folder / "report.html").write_text("of before")
    with pytest.raises(UserError, match="was written to by another command while this one ran"):
        reader.commit()
    assert bucket.names("runs/owned") == [".owner.json", COMMIT, "metrics.jsonl", "results.json"]
    send = remote_files.send

    def taken_meanwhile(source: Path, to: str, place: str) -> remote_files.RemoteFile:
        if to.endswith("/large"):
            machine(url, tmp_path / "reader", monkeypatch).take()
        return send(source, to, place)

    (second.folder / "large").write_text("second")
    with monkeypatch.context() as patched:
        patched.setattr(remote_files, "send", taken_meanwhile)
        with pytest.raises(UserError, match="It has committed nothing since"):
            second.commit()
    assert "large" not in json.loads(remote_files.read(f"{url}/{COMMIT}", "test", 999))["files"]
    third = machine(url, tmp_path / "first", monkeypatch)  # started again on the first machine: it takes over
    third.take()
    (third.folder / "checkpoint").write_text("third")
    third.commit()
    (second.folder / "results.json").write_text("second, more")
    with pytest.raises(UserError, match="belongs to another run"):
        second.commit()
