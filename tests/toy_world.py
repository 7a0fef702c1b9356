"""A whole small world on disk: shards of coloured pictures, two toy teachers, a recipe that merges them."""

import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import toys
import webdataset
from PIL import Image

if TYPE_CHECKING:
    from distill_mtl.evaluation import Evaluation

ROWS = 40


class Run(NamedTuple):
    """A finished run of this world: the fixture `toy_run`."""

    recipe: Path
    out: Path
    evaluation: "Evaluation"


def build(folder: Path) -> Path:
    """Write everything into `folder` and give the path of its recipe.

    `hue` is a classification, `shape` a segmentation; each has its own shards, and `pool` has no labels.
    """
    generator = np.random.default_rng(0)
    for source, member in (("hue", "cls"), ("shape", "seg.png"), ("pool", None)):
        for split in ("train", "validation", "test"):
            write_shard(folder / f"{source}-{split}.tar", generator, member)
    toys.toy_teacher_folder(folder / "teachers" / "hue", "hue", toys.classification(3), seed=1)
    toys.toy_teacher_folder(folder / "teachers" / "shape", "shape", toys.segmentation(2), seed=2)
    recipe = folder / "toy.yaml"
    recipe.write_text(RECIPE.replace("FOLDER", str(folder)))
    return recipe


RECIPE = """
student: {model: "toy:net", init: random}
tasks:
  hue:
    teacher: {path: FOLDER/teachers/hue, expect: 0, precision: fp32}
    data: {shards: FOLDER/hue-train.tar, split: {validation: FOLDER/hue-validation.tar, test: FOLDER/hue-test.tar}}
  shape:
    kind: segmentation
    teacher: {path: FOLDER/teachers/shape, expect: 0, precision: fp32}
    data:
      shards: FOLDER/shape-train.tar
      split: {validation: FOLDER/shape-validation.tar, test: FOLDER/shape-test.tar}
training: {steps: 6, batch_size: 12, log_every: 2, precision: fp32, checkpoint_every: 3}
evaluation: {bootstrap: 100}
acceptance: 100
"""


def corrupt(shard: Path, row: int, digits: int = 3) -> None:
    """Spoil the picture of one row and leave the archive whole."""
    content = bytearray(shard.read_bytes())
    with tarfile.open(shard) as archive:
        member = archive.getmember(f"{shard.stem}-{row:0{digits}d}.png")
    content[member.offset_data + 8 : member.offset_data + member.size] = bytes(member.size - 8)
    shard.write_bytes(bytes(content))


def read_shard(path: Path) -> list[dict[str, str | bytes]]:
    """The rows of a shard, as `write_rows` takes them."""
    rows: dict[str, dict[str, str | bytes]] = {}
    with tarfile.open(path) as archive:
        for member in archive.getmembers():
            key, _, ending = member.name.partition(".")
            content = archive.extractfile(member)
            assert content is not None
            rows.setdefault(key, {"__key__": key})[ending] = content.read()
    return list(rows.values())


def write_rows(path: Path, rows: Iterable[Mapping[str, str | bytes]]) -> None:
    """A shard of just these rows."""
    with webdataset.TarWriter(str(path), encoder=False) as writer:
        for row in rows:
            writer.write(dict(row))


def write_shard(path: Path, generator: np.random.Generator, member: str | None) -> None:
    """A shard of ROWS pictures, labelled under `member`."""
    write_rows(path, _rows(path.stem, generator, member))


def _rows(stem: str, generator: np.random.Generator, member: str | None) -> Iterator[dict[str, str | bytes]]:
    for row in range(ROWS):
        label = int(generator.integers(3))
        pixels = generator.integers(0, 120, (toys.SIZE, toys.SIZE, 3)).astype(np.uint8)
        pixels[..., label] += 120
        sample: dict[str, str | bytes] = {"__key__": f"{stem}-{row:03d}", "png": png(pixels)}
        if member == "cls":
            sample["cls"] = str(label).encode()
        elif member is not None:
            sample[member] = png((pixels[..., 0] > 128).astype(np.uint8))
        yield sample


def png(pixels: np.ndarray) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    return encoded.getvalue()
