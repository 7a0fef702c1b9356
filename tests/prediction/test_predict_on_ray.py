"""What a Ray cluster predicts is what one process does, in its order, also about shards that stay in a bucket."""

from collections.abc import Iterator
from pathlib import Path

import prediction_world
import pytest
import ray_cluster
from buckets import Bucket
from rich.console import Console

from distill_mtl import predict
from distill_mtl.data.index import index_name, index_to_stream
from distill_mtl.errors import UserError
from distill_mtl.prediction import answer_parts

pytest.importorskip("ray", reason="the extra `ray` is not installed")
QUIET = Console(quiet=True)
KINDS = {task: prediction_world.KINDS[task] for task in ("breed", "part")}


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[Bucket]:
    with ray_cluster.beside_bucket() as bucket:
        yield bucket


@pytest.fixture
def network(tmp_path: Path) -> str:
    return str(ray_cluster.timm_student(tmp_path / "student", KINDS, seed=0))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_parts, "_PICTURES", 4)


def photos(folder: Path) -> Path:
    """Ten pictures, of which one cannot be read."""
    for number in range(10):
        prediction_world.picture(folder / f"{number}.png", number)
    (folder / "3.png").write_bytes(b"no picture")
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_lines_masks_and_overlays_are_those_of_one_process(network: str, tmp_path: Path) -> None:
    images = [str(photos(tmp_path / "photos"))]
    for name, ray in (("alone", None), ("cluster", "local")):
        out = tmp_path / name
        unread = predict(
            network,
            images,
            json=out / "answers.jsonl",
            masks=out / "masks",
            overlays=out / "overlays",
            batch_size=4,
            ray=ray,
            console=QUIET,
        )
        assert [one.key for one in unread] == ["3.png"]
    alone = files(tmp_path / "alone")
    assert len(alone) == 1 + 2 * 9, "each picture that could be read has one task with a map"
    assert files(tmp_path / "cluster") == alone


def test_shards_of_a_bucket_stay_there(
    network: str, server: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = [
        prediction_world.shard(
            tmp_path / "shards" / f"s-{number}.tar",
            {f"{number}-{row}": prediction_world.png(10 * number + row) for row in range(5)},
        )
        for number in range(3)
    ]
    for path in shards:
        server.put(f"shards/{path.name}", path)
    monkeypatch.setenv("DISTILL_MTL_CACHE", str(tmp_path / "cache"))
    url = f"{server.url}/shards/s-*.tar"
    with pytest.raises(UserError, match=r"predict: 3 of 3 shards have no index .*distill-mtl index s3://"):
        predict(network, [url], store="1MB", console=QUIET)
    for path in shards:
        server.put(f"shards/{index_name(path.name)}", index_to_stream(path))
    texts = {}
    for name, options in (
        ("copied", {}),
        ("stored", {"store": "50kB"}),
        ("cluster", {"store": "50kB", "ray": "local"}),
    ):
        out = tmp_path / f"{name}.jsonl"
        assert not predict(network, [url], json=out, batch_size=4, console=QUIET, **options)
        lines = prediction_world.lines(out.read_text())
        assert [line["key"] for line in lines[::5]] == ["shards/s-0/0-0", "shards/s-1/1-0", "shards/s-2/2-0"]
        texts[name] = [(line["key"], line["tasks"]) for line in lines]
    assert len(texts["copied"]) == 15
    assert texts["stored"] == texts["copied"]
    assert texts["cluster"] == texts["copied"]


def test_what_the_cluster_cannot_do_is_one_line(network: str, tmp_path: Path) -> None:
    images = [str(photos(tmp_path / "photos"))]
    for options, said in (
        ({"ray": "local", "device": "cpu"}, "--device: with --ray the cluster decides"),
        ({"store": "much"}, "--store much: expected a number and a unit"),
    ):
        with pytest.raises(UserError, match=said):
            predict(network, images, json=tmp_path / "x.jsonl", console=QUIET, **options)
    with pytest.raises(UserError, match=r"s3://pets/photos/one\.png: of a bucket, shards are read"):
        predict(network, ["s3://pets/photos/one.png"], json=tmp_path / "x.jsonl", console=QUIET)
    part = answer_parts.PicturePart(
        1,
        [answer_parts.Picture("a", "gone.png", bytes, lambda members: None, file=tmp_path / "gone.png")],
        False,
    )
    assert str(part) == "pictures 1 to 1"
    with pytest.raises(UserError, match=r"gone\.png is not on \S+\. Put the pictures into a folder"):
        answer_parts.answer_part(None, part)  # type: ignore[arg-type]
