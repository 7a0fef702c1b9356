"""Data sets in YOLO's form come back from their shards in pixels."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotated_data import HEIGHT, LINES, WIDTH, yolo
from people_data import labels_by_key, load_lines, members, picture_of, pixels
from PIL import Image
from pycocotools import mask as tools

from distill_mtl import shards_from_yolo
from distill_mtl.errors import ShardError
from distill_mtl.shards import write_shards, yolo_sets
from distill_mtl.shards.shard_summary import recipe_lines


def test_boxes_and_the_boxes_of_polygons_come_back_in_pixels(tmp_path: Path) -> None:
    written = write_shards(yolo_sets(yolo(tmp_path / "data"))["train"], tmp_path / "s", workers=0)
    stored = members(written.shards)
    found = {key: json.loads(row["boxes.json"]) for key, row in stored.items()}
    assert found["a"] == [
        {"class": "spoon", "box": [12, 6, 8, 12]},
        {"class": "cup", "box": [6, 3, 4, 6]},
    ]
    assert found["b"] == []
    ((only),) = found["c"]
    assert only["box"] == pytest.approx([0.1 * WIDTH, 0.1 * HEIGHT, 0.5 * WIDTH, 0.6 * HEIGHT])
    for number, key in enumerate("abc"):
        assert np.array_equal(picture_of(stored[key]), pixels(number, HEIGHT, WIDTH))
    recipe = load_lines(recipe_lines(written), tmp_path / "recipe.yaml")
    assert recipe.tasks["data"].classes == ["cup", "spoon"]
    assert labels_by_key(recipe, "data")["a"][0].tolist() == [1, 16, 12, 8, 12]


def test_pictures_that_are_named_elsewhere_are_read_and_counted(tmp_path: Path) -> None:
    yolo(tmp_path / "other")
    folder = yolo(tmp_path / "data", {"a": LINES["a"]}, train="list.txt")
    pictures = [
        "images/train/a.png",
        "../other/images/train/b.png",
        str(tmp_path / "other/images/train/c.png"),
    ]
    (folder / "list.txt").write_text("\n".join(pictures))
    rows = yolo_sets(folder)["train"]
    assert len(rows) == 3
    (note,) = rows.notes
    assert note.startswith(f"2 of its files are named outside of {folder}, the first ")
    assert "other/images/train/b.png" in note
    assert yolo_sets(tmp_path / "other")["train"].notes == []


def test_polygons_become_masks(tmp_path: Path) -> None:
    lines = {"c": LINES["c"], "empty": ""}
    written = write_shards(
        yolo_sets(yolo(tmp_path / "data", lines), label="masks")["train"], tmp_path / "s", workers=0
    )
    row = members(written.shards)["c"]
    corners = [
        value * (WIDTH, HEIGHT)[place % 2]
        for place, value in enumerate((0.1, 0.1, 0.6, 0.1, 0.6, 0.7, 0.1, 0.7))
    ]
    wanted = tools.decode(tools.frPyObjects([corners], HEIGHT, WIDTH))[..., 0]
    assert np.array_equal(np.asarray(Image.open(BytesIO(row["seg.png"]))), wanted)
    assert "classes: [background, cup, spoon]" in recipe_lines(written)


def test_all_sets_of_the_file_are_written_and_pasted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a list of pictures, of folders, and as Roboflow names them: from another folder's sight."""
    folder = tmp_path / "data"
    yolo(folder, {"v": LINES["a"]}, split="val")
    yolo(folder, {"t": None, "u": "0 .5 .5 .1 .1"}, split="test")
    yolo(folder, train=["train.txt"], val="../images/val", test=["./images/test"], names=["cup", "spoon"])
    (folder / "train.txt").write_text("./images/train/a.png\nimages/train/c.png\n\n")
    written = shards_from_yolo(folder, to=tmp_path / "s", workers=0)
    assert {name: one.counts.rows for name, one in written.items()} == {"train": 2, "val": 1, "test": 2}
    said = capsys.readouterr().out
    assert "1 pictures have no file of labels: they count as pictures without objects." in said
    recipe = load_lines(said.partition("in a recipe:")[2], tmp_path / "recipe.yaml")
    split = recipe.data["s"].split
    assert (split.validation, split.test) == (
        str(tmp_path / "s/val-000000.tar"),
        str(tmp_path / "s/test-000000.tar"),
    )


def test_a_picture_in_two_sets_is_told(tmp_path: Path) -> None:
    sets = yolo_sets(yolo(tmp_path / "data", val="images/train"))
    assert [list(rows.notes) for rows in sets.values()] == [[], ["3 of its pictures are in train too"]]


def test_keypoints_behind_a_box_are_passed_over(tmp_path: Path) -> None:
    folder = yolo(tmp_path / "data", {"a": "0 .5 .5 .25 .5 .1 .1 2 .2 .2 2\n"}, kpt_shape=[2, 3])
    (row,) = members(write_shards(yolo_sets(folder)["train"], tmp_path / "s", workers=0).shards).values()
    assert json.loads(row["boxes.json"]) == [{"class": "cup", "box": [12, 6, 8, 12]}]


def test_objects_twice_and_without_area_are_left_out_and_counted(tmp_path: Path) -> None:
    folder = yolo(tmp_path / "data", {"a": "0 .5 .5 .2 .2\n0 .5 .5 .2 .2\n1 .5 .5 0 .2\n"})
    rows = yolo_sets(folder)["train"]
    assert rows.left_out == {"objects that are listed twice": 1, "boxes without area": 1}


REFUSED: list[tuple[str, str, dict[str, Any], str]] = [
    ("a class without a name", "2 .5 .5 .1 .1", {}, r"train/a.txt, line 2: the class 2, and data.yaml names 2"),
    ("a negative class", "-1 .5 .5 .1 .1", {}, r"line 2: the class '-1'"),
    ("half a class", "0.5 .5 .5 .1 .1", {}, r"line 2: the class '0.5'"),
    ("a class beyond all numbers", "inf .5 .5 .1 .1", {}, r"line 2: the class inf"),
    ("a share above 1", "0 .5 1.5 .1 .1", {}, r"line 2: 1.5, where shares"),
    ("pixels", "0 120 80 30 40", {}, r"line 2: 120, where shares"),
    ("a share below 0", "0 -.5 .5 .1 .1", {}, r"line 2: -0.5, where shares"),
    ("not a number", "0 nan .5 .1 .1", {}, r"line 2: nan, where shares"),
    ("a word", "cup .5 .5 .1 .1", {}, r"line 2: numbers are expected, found 'cup"),
    ("a score behind the box", "0 .5 .5 .1 .1 .9", {}, r"line 2: 5 numbers behind the class.*score"),
    ("too few numbers", "0 .5 .5", {}, r"line 2: 2 numbers"),
    ("another number of classes", "", {"nc": 3}, r"`nc` is 3, and `names` has 2"),
    ("numbers with a gap", "", {"names": {0: "cup", 2: "spoon"}}, r"`names` has the numbers 0, 2"),
    ("a name twice", "", {"names": ["cup", "cup"]}, r"the class 'cup' is named 2 times"),
    ("no names", "", {"names": []}, "`names` is empty"),
    ("names that are a text", "", {"names": "cup"}, "names"),
    ("no sets", "", {"train": None}, "it names no pictures"),
    ("pictures elsewhere", "", {"train": "nowhere"}, "pictures of `train`, nowhere, are not there"),
    ("a folder twice", "", {"train": ["images/train"] * 2}, "names the picture .* twice"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "data", "said"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_files_that_disagree_are_refused(tmp_path: Path, line: str, data: dict[str, Any], said: str) -> None:
    with pytest.raises(ShardError, match=said):
        yolo_sets(yolo(tmp_path / "data", {"a": f"1 .5 .5 .2 .2\n{line}\n"}, **data))


def test_labels_that_are_nowhere_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="none of 1 pictures has a file of labels: .*labels/train/a.txt"):
        yolo_sets(yolo(tmp_path / "data", {"a": None}))


def test_a_listed_picture_that_is_missing_is_named_or_left_out(tmp_path: Path) -> None:
    folder = yolo(tmp_path / "data", train="train.txt")
    (folder / "train.txt").write_text("images/train/a.png\nimages/train/z.png\n")
    with pytest.raises(
        ShardError, match=r"1 of its pictures are not there: images/train/z\.png.*--allow-missing"
    ):
        yolo_sets(folder)
    assert len(yolo_sets(folder, allow_missing=True)["train"]) == 1


def test_a_box_cannot_become_a_mask(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="line 1: a box, and masks need polygons.*; .*line 2: a box"):
        yolo_sets(yolo(tmp_path / "data"), label="masks")


def test_a_folder_without_its_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"data\.yaml is expected in it"):
        yolo_sets(tmp_path)
    with pytest.raises(ShardError, match="no such file or folder"):
        yolo_sets(tmp_path / "nowhere")
