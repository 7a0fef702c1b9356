import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import toys
import webdataset
from PIL import Image

from distill_mtl.checks.members import find_image, find_label
from distill_mtl.data.index import ShardIndex, load_index
from distill_mtl.errors import ShardError
from distill_mtl.tasks.base import TaskKind, build_kind


def picture(mode: str = "RGB") -> bytes:
    encoded = io.BytesIO()
    shape = (4, 4, 3) if mode == "RGB" else (4, 4)
    Image.fromarray(np.zeros(shape, np.uint8), mode).save(encoded, "PNG")
    return encoded.getvalue()


def shard(path: Path, *rows: Mapping[str, bytes]) -> ShardIndex:
    with webdataset.TarWriter(str(path), encoder=False) as writer:
        for number, row in enumerate(rows):
            writer.write({"__key__": f"{number:03d}", **row})
    return load_index(path)


def label(index: ShardIndex, kind: TaskKind) -> str:
    return find_label([index], kind, "breed", "pets/").ending


def test_the_usual_member_is_taken_where_it_fits(tmp_path: Path) -> None:
    index = shard(tmp_path / "a.tar", {"png": picture(), "cls": b"2", "age": b"1", "group": b"0"})
    assert label(index, toys.classification(3)) == "cls"


def test_else_the_only_one_that_reads_as_a_label(tmp_path: Path) -> None:
    row = {"png": picture(), "cls": b"7", "species": b"class2", "mask.png": picture("L"), "group": b"0"}
    index = shard(tmp_path / "a.tar", row)
    assert label(index, toys.classification(3)) == "species"
    assert label(index, toys.segmentation(2)) == "mask.png"


def depths(value: float, ending: str) -> dict[str, bytes]:
    encoded = io.BytesIO()
    if ending == "npy":
        np.save(encoded, np.full((4, 4), value, np.float32))
    else:
        Image.fromarray(np.full((4, 4), value, np.uint16)).save(encoded, "PNG")
    return {"png": picture(), f"depth.{ending}": encoded.getvalue()}


@pytest.mark.parametrize("endings", [("npy",), ("png",), ("png", "npy")])
def test_a_kind_with_several_usual_members_takes_those_that_are_there(
    tmp_path: Path, endings: tuple[str, ...]
) -> None:
    index = shard(tmp_path / "a.tar", *({**depths(2, ending), "z.npy": b"?"} for ending in endings))
    found = find_label([index], build_kind("depth"), "far", "rooms")
    assert found.ending == ";".join(f"depth.{ending}" for ending in endings)
    assert found.why == "the usual one; others: z.npy"


def test_the_usual_label_of_another_kind_is_not_taken_where_there_is_another(tmp_path: Path) -> None:
    index = shard(
        tmp_path / "a.tar", {"png": picture(), "cls": b"1", "attributes.json": b"[0]", "age": b"31"}
    )
    assert label(index, build_kind("regression", ["age"])) == "age"
    without = shard(tmp_path / "b.tar", {"png": picture(), "cls": b"1"})
    assert label(without, build_kind("regression", ["age"])) == "cls"


def test_of_two_that_would_do_the_user_chooses(tmp_path: Path) -> None:
    index = shard(tmp_path / "a.tar", {"png": picture(), "age": b"1", "size": b"2"})
    with pytest.raises(ShardError, match=r"age.*size.*--set tasks\.breed\.data\.member"):
        label(index, toys.classification(3))


def test_without_a_label_that_fits_the_members_are_listed_with_reasons(tmp_path: Path) -> None:
    rows = [{"png": picture(), "cls": b"7", "txt": b"0"}, {"png": picture(), "cls": b"8"}]
    index = shard(tmp_path / "a.tar", *rows)
    with pytest.raises(ShardError) as caught:
        label(index, toys.classification(3))
    message = str(caught.value)
    assert message.startswith("--data pets/: ")
    assert "breed (classification, 3 classes)" in message
    assert "cls (the label '7'" in message
    assert "; png; txt." in message


def test_a_picture_in_an_unusual_member_is_found_by_looking(tmp_path: Path) -> None:
    assert find_image([shard(tmp_path / "a.tar", {"png": picture(), "cls": b"0"})], "a") is None
    assert find_image([shard(tmp_path / "b.tar", {"png": picture()}, {"jpg": picture()})], "b") is None
    assert find_image([shard(tmp_path / "c.tar", {"cls": b"0", "view.bmp": picture()})], "c") == "view.bmp"
    with pytest.raises(ShardError, match=r"--data d: .*picture.*\bcls\b"):
        find_image([shard(tmp_path / "d.tar", {"cls": b"0"})], "d")
