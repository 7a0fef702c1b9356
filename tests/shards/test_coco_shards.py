"""Data sets in COCO's form come back from their shards as pycocotools reads them."""

import json
import sys
from contextlib import redirect_stdout
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotated_data import HEIGHT, POLYGON, WIDTH, annotation, coco, write_json
from people_data import labels_by_key, load_lines, members, picture_of, pixels, save_picture
from PIL import Image
from pycocotools import mask as tools
from pycocotools.coco import COCO

from distill_mtl import shards_from_coco
from distill_mtl.errors import ShardError, UserError
from distill_mtl.shards import coco_sets, write_shards
from distill_mtl.shards.coco import mirrored_points
from distill_mtl.shards.masks import polygon_mask, run_length_mask, unpacked
from distill_mtl.shards.shard_summary import recipe_lines

CLASSES = ["table", "cup", "spoon"]  # by id


def reference(folder: Path, split: str = "train") -> COCO:
    with redirect_stdout(StringIO()):
        return COCO(str(folder / "annotations" / f"instances_{split}2017.json"))


def mask_of(row: dict[str, bytes]) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(row["seg.png"])))


@pytest.mark.parametrize("label", ["boxes", "masks"])
def test_pictures_that_are_named_elsewhere_are_read_and_counted(tmp_path: Path, label: Any) -> None:
    content = coco(tmp_path / "coco")
    assert coco_sets(tmp_path / "coco", label=label)[""].notes == []
    for picture, name in zip(content["images"], ("../../out.png", str(tmp_path / "out.png")), strict=False):
        picture["file_name"] = name
    save_picture(tmp_path / "out.png", 1, height=HEIGHT, width=WIDTH)
    write_json(tmp_path / "coco" / "annotations" / "instances_train2017.json", content)
    (note,) = coco_sets(tmp_path / "coco", label=label)[""].notes
    assert note.startswith(f"2 of its files are named outside of {tmp_path / 'coco'}, the first")
    assert "out.png" in note


def test_boxes_are_those_of_pycocotools(tmp_path: Path) -> None:
    coco(tmp_path / "coco")
    written = write_shards(coco_sets(tmp_path / "coco")[""], tmp_path / "s", workers=0)
    stored, expected = members(written.shards), reference(tmp_path / "coco")
    assert len(stored) == 3
    for number, picture in expected.imgs.items():
        row = stored[f"train-{number}"]
        assert np.array_equal(picture_of(row), pixels(number, HEIGHT, WIDTH))
        wanted = [
            {"class": expected.cats[one["category_id"]]["name"], "box": one["bbox"]}
            for one in expected.loadAnns(expected.getAnnIds(picture["id"], iscrowd=False))
            if one["area"] > 0
        ]
        assert json.loads(row["boxes.json"]) == wanted
    assert written.left_out == {"boxes around crowds (iscrowd)": 1, "boxes without area": 1}
    assert written.labels[0].classes == tuple(CLASSES)


def test_masks_are_those_of_pycocotools_with_small_objects_above_large_ones(tmp_path: Path) -> None:
    coco(tmp_path / "coco")
    written = write_shards(coco_sets(tmp_path / "coco", label="masks")[""], tmp_path / "s", workers=0)
    stored, expected = members(written.shards), reference(tmp_path / "coco")
    for number in expected.imgs:
        wanted = np.zeros((HEIGHT, WIDTH), np.uint8)
        found = [one for one in expected.loadAnns(expected.getAnnIds(number)) if one["id"] != 4]
        shapes = [(expected.annToMask(one).astype(bool), one) for one in found]
        for shape, one in sorted(shapes, key=lambda pair: (not pair[1]["iscrowd"], -pair[0].sum())):
            name = expected.cats[one["category_id"]]["name"]
            wanted[shape] = 255 if one["iscrowd"] else 1 + CLASSES.index(name)
        assert np.array_equal(mask_of(stored[f"train-{number}"]), wanted), number
    assert written.left_out == {"objects without an area": 1, "polygons of fewer than three corners": 1}
    assert written.labels[0].classes == ("background", *CLASSES)
    lines = recipe_lines(written)
    assert "kind: segmentation" in lines
    assert "classes: [background, table, cup, spoon]" in lines


def test_masks_of_annotations_that_cover_the_picture_have_no_background(tmp_path: Path) -> None:
    coco(tmp_path / "coco")
    rows = coco_sets(tmp_path / "coco", label="masks", background=False)[""]
    written = write_shards(rows, tmp_path / "s", workers=0)
    assert set(np.unique(mask_of(members(written.shards)["train-10"]))) == {0, 1, 255}
    assert written.labels[0].classes == tuple(CLASSES)


@pytest.mark.parametrize("seed", range(4))
def test_run_lengths_and_their_text_are_those_of_pycocotools(seed: int) -> None:
    """Of random masks, also of long runs, which take several letters."""
    generator = np.random.RandomState(seed)
    size = (300, 200) if seed == 3 else (int(generator.randint(1, 40)), int(generator.randint(1, 40)))
    wanted = (generator.rand(*size) < (0.0005 if seed == 3 else 0.5)).astype(np.uint8)
    text = tools.encode(np.asfortranarray(wanted))["counts"].decode()
    assert np.array_equal(run_length_mask({"size": list(size), "counts": text}, size), wanted.astype(bool))
    counts = unpacked(text)
    assert sum(counts) == size[0] * size[1]
    packed = tools.frPyObjects({"size": list(size), "counts": counts}, *size)
    assert np.array_equal(tools.decode(packed), wanted)


def test_polygons_that_leave_their_picture_a_little_are_cut_by_it() -> None:
    assert polygon_mask([[-3, -3, 4, -3, 4, 4, -3, 4]], (8, 10)).sum() == 16
    with pytest.raises(ValueError, match="a polygon leaves its picture of 10x8 pixels"):
        polygon_mask([[0, 0, 1e9, 0, 1e9, 1e9]], (8, 10))


def test_the_package_is_asked_for_where_polygons_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco(tmp_path / "coco")
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    with pytest.raises(UserError, match=r"needs the package pycocotools: pip install 'distill_mtl\[coco\]'"):
        coco_sets(tmp_path / "coco", label="masks")
    assert len(coco_sets(tmp_path / "coco")[""]) == 3


def test_panoptic_annotations_become_masks(tmp_path: Path) -> None:
    """The PNG's colours are ids of segments; black is of no class."""
    save_picture(tmp_path / "val2017" / "a.jpg", 1, height=HEIGHT, width=WIDTH)
    ids = np.zeros((HEIGHT, WIDTH), np.int64)
    ids[4:10], ids[10:] = 70_000, 300
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
    (tmp_path / "annotations" / "panoptic_val2017").mkdir(parents=True)
    Image.fromarray(colours).save(tmp_path / "annotations" / "panoptic_val2017" / "a.png")
    segments = [{"id": 70_000, "category_id": 200, "iscrowd": 1}, {"id": 300, "category_id": 1, "iscrowd": 0}]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": segments}],
        "categories": [{"id": 200, "name": "sky", "isthing": 0}, {"id": 1, "name": "person", "isthing": 1}],
    }
    file = write_json(tmp_path / "annotations" / "panoptic_val2017.json", content)
    written = write_shards(coco_sets(tmp_path, pattern="panoptic_*", label="masks")["val"], tmp_path / "s")
    (row,) = members(written.shards).values()
    wanted = np.select([ids == 300, ids == 70_000], [0, 1], 255)
    assert np.array_equal(mask_of(row), wanted)
    assert written.labels[0].classes == ("person", "sky")
    with pytest.raises(ShardError, match=r"annotations\[0\] has no category_id.*--label masks"):
        coco_sets(file)
    write_json(
        file, content | {"annotations": [{**content["annotations"][0], "segments_info": segments[:1]}]}
    )
    with pytest.raises(ShardError, match="segment 300, which `segments_info` lacks"):
        write_shards(coco_sets(file, label="masks")["val"], tmp_path / "t", workers=0)


def keypoints(folder: Path, *things: dict[str, Any]) -> Path:
    save_picture(folder / "images" / "0.png", 0, height=HEIGHT, width=WIDTH)
    save_picture(folder / "images" / "1.png", 1, height=HEIGHT, width=WIDTH)
    content = {
        "images": [{"id": 0, "file_name": "0.png"}, {"id": 1, "file_name": "1.png"}],
        "annotations": [{"category_id": 1, **one} for one in things],
        "categories": [{"id": 1, "name": "person", "keypoints": ["nose", "left_eye", "right_eye"]}],
    }
    return write_json(folder / "person_keypoints.json", content)


def test_keypoints_become_the_points_of_a_heat_map(tmp_path: Path) -> None:
    person = {"keypoints": [4, 5, 2, 6, 4, 1, 0, 0, 0]}
    rows = coco_sets(keypoints(tmp_path, {"image_id": 0, **person}), label="points")[""]
    written = write_shards(rows, tmp_path / "s", workers=0)
    recipe = load_lines(recipe_lines(written), tmp_path / "recipe.yaml")
    assert recipe.tasks["person_keypoints-json"].options == {
        "form": "points",
        "mirrored": [["left_eye", "right_eye"]],
    }
    labels = labels_by_key(recipe, "person_keypoints-json")
    assert labels["0"][:3, :3].tolist() == [[0, 4, 5], [1, 6, 4], [-1, 0, 0]]
    assert labels["1"][0, 0] == -1


def test_points_of_left_and_right_change_places_in_a_mirror_however_they_are_written() -> None:
    assert mirrored_points(["Left Eye", "nose", "Right Eye", "person/left_ear", "person/right_ear"]) == [
        ["Left Eye", "Right Eye"],
        ["person/left_ear", "person/right_ear"],
    ]
    assert mirrored_points(["left", "middle"]) == []


def test_pictures_whose_points_a_heat_map_cannot_hold_are_left_out(tmp_path: Path) -> None:
    seen, unseen = {"keypoints": [4, 5, 2] * 3}, {"keypoints": [0] * 9}
    file = keypoints(tmp_path, {"image_id": 0, **seen}, {"image_id": 0, **seen}, {"image_id": 1, **unseen})
    with pytest.raises(
        ShardError, match="no rows are left.*1 pictures with several.*1 pictures whose object"
    ):
        coco_sets(file, label="points")
    coco(tmp_path / "coco")
    with pytest.raises(ShardError, match="no category has keypoints"):
        coco_sets(tmp_path / "coco", label="points")


def test_each_set_has_its_shards_and_one_recipe_names_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val"):
        coco(tmp_path / "coco", split)
    write_json(tmp_path / "coco" / "annotations" / "captions_train2017.json", {"annotations": []})
    written = shards_from_coco(tmp_path / "coco", to=tmp_path / "s", workers=0)
    assert [path.name for one in written.values() for path in one.shards] == [
        "train-000000.tar",
        "val-000000.tar",
    ]
    lines = capsys.readouterr().out.partition("in a recipe:")[2]
    recipe = load_lines(lines, tmp_path / "recipe.yaml")
    source = recipe.data["s"]
    assert (source.shards, source.split.validation) == (
        str(tmp_path / "s/train-000000.tar"),
        str(tmp_path / "s/val-000000.tar"),
    )
    assert recipe.tasks["s"].classes == CLASSES
    named = shards_from_coco(
        tmp_path / "coco", to=tmp_path / "s", name="small", sets="val", take=":2", workers=0
    )
    assert [path.name for path in named["val"].shards] == ["small-val-000000.tar"]
    assert named["val"].counts.rows == 2


def test_a_folder_as_roboflow_exports_it_is_read(tmp_path: Path) -> None:
    """A file of annotations beside the pictures of each set."""
    for split, folder in (("train", "train"), ("val", "valid")):
        coco(tmp_path / "there", split)
        (tmp_path / "there" / f"{split}2017").rename(tmp_path / folder)
        made = tmp_path / "there" / "annotations" / f"instances_{split}2017.json"
        made.rename(tmp_path / folder / "_annotations.coco.json")
    assert {name: len(rows) for name, rows in coco_sets(tmp_path).items()} == {"train": 3, "val": 3}


def test_a_picture_with_more_objects_than_usual_gets_room_for_them(tmp_path: Path) -> None:
    many = [annotation(number, 10, 7, [1, 1, 4, 4], []) for number in range(80)]
    coco(tmp_path / "coco", annotations=many)
    written = write_shards(coco_sets(tmp_path / "coco")[""], tmp_path / "s", workers=0)
    assert "max_objects: 80" in recipe_lines(written)


def test_more_classes_than_a_byte_counts_make_masks_of_two(tmp_path: Path) -> None:
    categories = [{"id": number, "name": f"c{number}"} for number in range(300)]
    things = [annotation(1, 10, 299, [4, 4, 10, 12], [POLYGON])]
    coco(tmp_path / "coco", categories=categories, annotations=things)
    written = write_shards(coco_sets(tmp_path / "coco", label="masks")[""], tmp_path / "s", workers=0)
    assert mask_of(members(written.shards)["train-10"]).max() == 300
    assert "ignore_index: 65535" in recipe_lines(written)


def test_what_is_not_asked_for_may_have_any_form(tmp_path: Path) -> None:
    odd = annotation(1, 10, 7, [4, 4, 10, 12], None) | {"iscrowd": None, "keypoints": None}
    flat = annotation(2, 25, 3, [1, 1, 4, 4], [1, 1, 5, 1, 5, 5])
    coco(tmp_path / "coco", annotations=[odd, flat])
    written = write_shards(coco_sets(tmp_path / "coco")[""], tmp_path / "s", workers=0)
    assert sum(len(json.loads(row["boxes.json"])) for row in members(written.shards).values()) == 2


# ---- what is wrong with the files ---------------------------------------------------------------------
def changed(content: dict[str, Any], key: str, *items: Any) -> dict[str, Any]:
    return content | {key: [*content[key], *items]}


UNKNOWN = annotation(9, 99, 7, [1, 1, 2, 2], [])
REFUSED = [
    ("an id of two pictures", "images", {"id": 10, "file_name": "x.png"}, "two pictures have the id 10"),
    ("a picture twice", "images", {"id": 11, "file_name": "train-10.png"}, "'train-10.png' is listed 2 times"),
    ("a picture that is missing", "images", {"id": 11, "file_name": "y.png"}, "1 of 4 pictures .*'y.png'"),
    ("a drive of Windows", "images", {"id": 11, "file_name": "C:\\a.png"}, "drive of Windows"),
    ("an unknown picture", "annotations", UNKNOWN, r"1 annotations are of pictures.*image_id 99.*--allow-missing"),
    ("an unknown category", "annotations", annotation(9, 10, 8, [1, 1, 2, 2], []), r"of categories.*category_id 8"),
    ("a negative box", "annotations", annotation(9, 10, 7, [1, 1, -2, 2], []), r"\[5\] has a box of negative"),
    ("no box", "annotations", {"image_id": 10, "category_id": 7}, r"annotations\[5\] has no `bbox"),
    ("a box of three", "annotations", annotation(9, 10, 7, [1, 1, 2], []) , r"annotations\[5\] has no `bbox"),
    ("not a number", "annotations", annotation(9, 10, 7, [1, 1, float("nan"), 2], []), r"annotations\[5\], bbox.2"),
    ("no image_id", "annotations", {"category_id": 7}, r"annotations\[5\], image_id: Field required"),
    ("a category twice", "categories", {"id": 7, "name": "mug"}, "two categories have the id 7"),
    ("a name twice", "categories", {"id": 8, "name": "cup"}, "the class 'cup' is named 2 times"),
    ("no name", "categories", {"id": 8}, r"categories\[3\], name: Field required"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "item", "said"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_files_that_contradict_themselves_are_refused(tmp_path: Path, key: str, item: Any, said: str) -> None:
    content = coco(tmp_path / "coco")
    write_json(tmp_path / "coco" / "annotations" / "instances_train2017.json", changed(content, key, item))
    with pytest.raises(ShardError, match=said):
        coco_sets(tmp_path / "coco")


def test_what_is_missing_is_left_out_on_request(tmp_path: Path) -> None:
    content = changed(coco(tmp_path / "coco"), "annotations", UNKNOWN)
    content = changed(content, "images", {"id": 11, "file_name": "y.png"})
    file = write_json(tmp_path / "coco" / "annotations" / "instances_train2017.json", content)
    rows = coco_sets(file, allow_missing=True)[""]
    assert len(rows) == 3
    assert rows.left_out["pictures that are not there"] == 1
    assert rows.left_out["annotations of pictures that are not listed"] == 1


def test_pictures_of_another_size_than_the_annotations_say_are_refused(tmp_path: Path) -> None:
    """As those that EXIF data turn."""
    coco(tmp_path / "coco")
    save_picture(tmp_path / "coco" / "train2017" / "train-10.png", 1, height=WIDTH, width=HEIGHT)
    with pytest.raises(
        ShardError, match=r"train-10.png: its labels are for a picture of 32x24 pixels, and it has 24x32"
    ):
        write_shards(coco_sets(tmp_path / "coco")[""], tmp_path / "s", workers=0)
    assert not list((tmp_path / "s").glob("*.tar"))


def test_sets_with_other_categories_are_refused(tmp_path: Path) -> None:
    coco(tmp_path / "coco")
    coco(tmp_path / "coco", "val", categories=[{"id": 7, "name": "cup"}], annotations=[])
    with pytest.raises(ShardError, match="has other categories than .*: spoon, table"):
        coco_sets(tmp_path / "coco")
    with pytest.raises(ShardError, match=r"--sets vall: .* has no such set\. Did you mean 'val'\?"):
        coco_sets(tmp_path / "coco", sets=["vall"])


def test_files_of_one_set_are_not_chosen_between(tmp_path: Path) -> None:
    coco(tmp_path / "coco")
    write_json(tmp_path / "coco" / "annotations" / "instances_extra.json", {})
    with pytest.raises(ShardError, match="are both of the set train.*--annotations"):
        coco_sets(tmp_path / "coco")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ShardError, match="no file of annotations"):
        coco_sets(tmp_path / "empty")


def test_pictures_elsewhere_are_asked_for(tmp_path: Path) -> None:
    coco(tmp_path / "coco")
    (tmp_path / "coco" / "train2017").rename(tmp_path / "elsewhere")
    with pytest.raises(ShardError, match="none of its pictures is found .*--images"):
        coco_sets(tmp_path / "coco")
    assert len(coco_sets(tmp_path / "coco", images=tmp_path / "elsewhere")[""]) == 3
