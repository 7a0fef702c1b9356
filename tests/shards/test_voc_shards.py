"""Data sets in PASCAL VOC's form come back from their shards as the development kit means them."""

import json
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from annotated_data import VOC, palette_numbers, save_palette, voc, write_xml
from people_data import labels_by_key, load_lines, members, save_picture
from PIL import Image

from distill_mtl import shards_from_voc
from distill_mtl.errors import ShardError
from distill_mtl.shards import voc_sets, write_shards
from distill_mtl.shards.shard_summary import recipe_lines
from distill_mtl.shards.voc import TWENTY


def test_boxes_count_pixels_from_1_and_hold_the_last_one(tmp_path: Path) -> None:
    written = write_shards(voc_sets(voc(tmp_path / "VOC2007"))["train"], tmp_path / "s", workers=0)
    found = {key: json.loads(row["boxes.json"]) for key, row in members(written.shards).items()}
    assert found == {
        "2007_000027": [
            {"class": "person", "box": [4, 2, 10, 20]},
            {"class": "cat", "box": [0, 0, 32, 24]},
        ],
        "2007_000032": [],
        "2007_000039": [{"class": "aeroplane", "box": [9, 9, 1.5, 11]}],
    }
    assert written.left_out == {"objects that are flagged as difficult": 1}
    assert "classes: [aeroplane, cat, person]" in recipe_lines(written)
    kept = voc_sets(tmp_path / "VOC2007", keep_difficult=True)["train"]
    assert len(json.loads(kept.read(0).members["boxes.json"])) == 3


def test_boxes_that_begin_at_0_are_read_as_edges_and_that_is_said(tmp_path: Path) -> None:
    rows = voc_sets(voc(tmp_path / "d", {"a": [("cup", (0, 2, 10, 12), 0), ("cup", (5, 5, 5, 9), 0)]}))[
        "train"
    ]
    assert json.loads(rows.read(0).members["boxes.json"]) == [{"class": "cup", "box": [0, 2, 10, 10]}]
    assert "edges counted from 0" in rows.notes[0]
    assert rows.left_out["boxes without area"] == 1


def test_masks_with_a_palette_are_copied_and_255_is_no_class(tmp_path: Path) -> None:
    written = write_shards(
        voc_sets(voc(tmp_path / "VOC2012"), label="masks")["train"], tmp_path / "s", workers=0
    )
    for number, (name, row) in enumerate(sorted(members(written.shards).items())):
        picture = Image.open(BytesIO(row["seg.png"]))
        assert picture.mode == "P"
        assert np.array_equal(np.asarray(picture), palette_numbers(number)), name
    assert written.labels[0].classes == ("background", *TWENTY)
    recipe = load_lines(recipe_lines(written), tmp_path / "recipe.yaml")
    labels = labels_by_key(recipe, "VOC2012")
    assert set(np.unique(labels["2007_000027"])) == {0, 15, 255}


def test_masks_of_other_classes_are_numbered(tmp_path: Path) -> None:
    voc(tmp_path / "d", {"a": [("cup", (1, 2, 10, 12), 0)]})
    written = write_shards(voc_sets(tmp_path / "d", label="masks")["train"], tmp_path / "s", workers=0)
    assert "classes: 16" in recipe_lines(written)
    named = voc_sets(tmp_path / "d", label="masks", classes=["void", *TWENTY])["train"]
    assert named.labels[0].classes == ("void", *TWENTY)


def test_masks_of_another_data_set_with_some_of_vocs_classes_are_numbered(tmp_path: Path) -> None:
    voc(tmp_path / "d", database="Unknown")
    assert voc_sets(tmp_path / "d", label="masks")["train"].labels[0].classes is None
    shutil.rmtree(tmp_path / "d" / "Annotations")
    assert voc_sets(tmp_path / "d", label="masks")["train"].labels[0].classes is None


def test_lists_are_sets_and_lists_of_one_class_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *others = VOC
    lists = {"train": [first], "val": others, "trainval": [*VOC], "cat_train": [f"{first} -1"]}
    voc(tmp_path / "VOCdevkit" / "VOC2012", lists=lists)
    written = shards_from_voc(tmp_path / "VOCdevkit", to=tmp_path / "s", workers=0)
    assert {name: one.counts.rows for name, one in written.items()} == {"train": 1, "val": 2}
    recipe = load_lines(capsys.readouterr().out.partition("in a recipe:")[2], tmp_path / "recipe.yaml")
    assert recipe.data["s"].split.validation == str(tmp_path / "s/val-000000.tar")
    assert len(voc_sets(tmp_path / "VOCdevkit", sets=["trainval"])["trainval"]) == 3


def test_sets_that_are_written_one_by_one_agree_on_classes_and_the_first_pixel(tmp_path: Path) -> None:
    data = {"a": [("cup", (5, 5, 10, 12), 0)], "b": [("bowl", (0, 2, 10, 12), 0)]}
    place = voc(tmp_path / "d", data, lists={"train": ["a"], "val": ["b"]})
    (place / "Annotations" / "broken.xml").write_text("<annotation><object>")
    both = voc_sets(place)
    for name, rows in both.items():
        alone = voc_sets(place, sets=[name])[name]
        assert alone.labels[0].classes == rows.labels[0].classes == ("bowl", "cup")
        assert alone.read(0).members == rows.read(0).members
        assert alone.notes == rows.notes


def test_without_lists_all_files_are_one_set(tmp_path: Path) -> None:
    assert {name: len(rows) for name, rows in voc_sets(voc(tmp_path / "d", lists={})).items()} == {"": 3}


REFUSED = [
    ("no box", "<object><name>cup</name></object>", "object 1 has no bndbox"),
    ("no name", "<object><bndbox/></object>", "object 1 has no name"),
    (
        "no number",
        "<object><name>a</name><bndbox><xmin>left</xmin></bndbox></object>",
        "object 1, xmin is left",
    ),
    ("no side", "<object><name>a</name><bndbox><xmin>1</xmin></bndbox></object>", "object 1, ymin is ''"),
    ("NaN", "<object><name>a</name><bndbox><xmin>nan</xmin></bndbox></object>", "object 1, xmin is nan"),
    ("no end", "<object>", "is not valid XML: mismatched tag"),
]


@pytest.mark.parametrize(
    ("inside", "said"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_a_file_that_is_incomplete_is_refused_by_name(tmp_path: Path, inside: str, said: str) -> None:
    voc(tmp_path / "d")
    (tmp_path / "d" / "Annotations" / "2007_000032.xml").write_text(f"<annotation>{inside}</annotation>")
    with pytest.raises(ShardError, match=rf"2007_000032\.xml.*{said}"):
        voc_sets(tmp_path / "d")


ENTITY = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>'
BOMB = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><a>&b;</a>'


@pytest.mark.parametrize(
    "content", [ENTITY, BOMB, "<a>" * 5000, "", "\x00", "<?xml version='1.0' encoding='no'?><a/>"]
)
def test_xml_that_is_made_to_hurt_is_refused(tmp_path: Path, content: str) -> None:
    voc(tmp_path / "d")
    (tmp_path / "d" / "Annotations" / "2007_000032.xml").write_text(content)
    with pytest.raises(ShardError, match=r"2007_000032\.xml is not valid XML"):
        voc_sets(tmp_path / "d")


def test_corners_the_wrong_way_round_are_refused(tmp_path: Path) -> None:
    voc(tmp_path / "d", {"a": [("cup", (9, 2, 4, 12), 0)]})
    with pytest.raises(ShardError, match=r"object 1 ends \(4, 12\) before it begins \(9, 2\)"):
        voc_sets(tmp_path / "d")


def test_rows_that_lack_a_file_are_named_or_left_out(tmp_path: Path) -> None:
    voc(tmp_path / "d")
    (tmp_path / "d" / "JPEGImages" / "2007_000032.png").unlink()
    (tmp_path / "d" / "Annotations" / "2007_000039.xml").unlink()
    with pytest.raises(ShardError, match=r"1 of 3 rows have no annotation: 2007_000039.*--allow-missing"):
        voc_sets(tmp_path / "d")
    rows = voc_sets(tmp_path / "d", allow_missing=True)["train"]
    assert len(rows) == 1
    assert rows.left_out["rows without annotation"] == rows.left_out["rows without picture"] == 1


def test_other_contradictions_are_refused(tmp_path: Path) -> None:
    voc(tmp_path / "d", lists={"train": ["2007_000027", "2007_000027"]})
    with pytest.raises(ShardError, match="'?2007_000027'? is listed twice"):
        voc_sets(tmp_path / "d")
    voc(tmp_path / "d")
    with pytest.raises(ShardError, match="shows the class cat, which --classes lacks"):
        voc_sets(tmp_path / "d", classes=["person", "aeroplane"])
    save_picture(tmp_path / "d" / "JPEGImages" / "2007_000032.jpg", 1)
    with pytest.raises(ShardError, match="are both called '2007_000032'"):
        voc_sets(tmp_path / "d")
    voc(tmp_path / "two" / "VOC2007")
    voc(tmp_path / "two" / "VOC2012")
    with pytest.raises(ShardError, match="VOC2012. Name one of them"):
        voc_sets(tmp_path / "two")


def test_sizes_that_are_not_the_pictures_are_refused(tmp_path: Path) -> None:
    voc(tmp_path / "d", {"a": [("cup", (1, 2, 4, 12), 0)]})
    write_xml(tmp_path / "d" / "Annotations" / "a.xml", [("cup", (1, 2, 4, 12), 0)], width=64)
    with pytest.raises(ShardError, match="its labels are for a picture of 64x24 pixels, and it has 32x24"):
        write_shards(voc_sets(tmp_path / "d")["train"], tmp_path / "s", workers=0)
    save_palette(tmp_path / "d" / "SegmentationClass" / "b.png", 0)
