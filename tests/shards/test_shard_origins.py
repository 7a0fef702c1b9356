"""What people have comes back from the shards as it was: folder, table, pairs, torchvision."""

import json
from pathlib import Path

import numpy as np
import pytest
import torchvision
from people_data import (
    ANIMALS,
    animals,
    digests,
    labels_by_key,
    load_lines,
    mask,
    members,
    picture_of,
    pixels,
    save_mask,
    save_picture,
)
from PIL import Image

from distill_mtl.errors import ShardError
from distill_mtl.shards import folder_rows, pair_rows, table_rows, torchvision_rows, write_shards
from distill_mtl.shards.shard_summary import recipe_lines


# ---- an image folder ------------------------------------------------------------------------------
def test_an_image_folder_comes_back_with_its_classes(tmp_path: Path) -> None:
    written = write_shards(folder_rows(animals(tmp_path / "photos")), tmp_path / "pets", rows_per_shard=5)
    assert [path.name for path in written.shards] == [f"pets-00000{n}.tar" for n in range(3)]
    recipe = load_lines(recipe_lines(written), tmp_path / "recipe.yaml")
    assert recipe.tasks["photos"].classes == list(ANIMALS)
    labels, stored = labels_by_key(recipe, "photos"), members(written.shards)
    assert len(labels) == 12
    for number in range(12):
        key = f"{ANIMALS[number % 3]}-photo_{number:02d}"
        assert labels[key] == number % 3
        assert np.array_equal(picture_of(stored[key]), pixels(number))


def test_pictures_without_classes_become_a_pool(tmp_path: Path) -> None:
    for number in range(3):
        save_picture(tmp_path / "photos" / f"{number}.png", number)
    (tmp_path / "photos" / "notes.txt").write_text("not a picture")
    written = write_shards(folder_rows(tmp_path / "photos"), tmp_path / "pool")
    assert {tuple(row) for row in members(written.shards).values()} == {("png",)}
    assert written.left_out == {"files that are not pictures (.txt)": 1}
    assert recipe_lines(written) == f"data:\n  pool:\n    shards: {tmp_path}/pool/pool-000000.tar\n"


def test_a_format_that_readers_do_not_take_is_written_as_png(tmp_path: Path) -> None:
    save_picture(tmp_path / "photos" / "cat" / "tom.bmp", 5)
    (sample,) = members(write_shards(folder_rows(tmp_path / "photos"), tmp_path / "s").shards).values()
    assert np.array_equal(picture_of(sample), pixels(5))


def test_sub_folders_that_are_sets_are_not_taken_for_classes(tmp_path: Path) -> None:
    for split in ("train", "val"):
        animals(tmp_path / "photos" / split, 3)
    with pytest.raises(ShardError, match="are sets, not classes.*shards folder .*photos/train"):
        folder_rows(tmp_path / "photos")


def test_pictures_beside_class_folders_are_not_forgotten(tmp_path: Path) -> None:
    save_picture(animals(tmp_path / "photos", 3) / "stray.png", 9)
    with pytest.raises(ShardError, match=r"1 pictures lie beside the class folders, first stray\.png"):
        folder_rows(tmp_path / "photos")
    assert len(folder_rows(tmp_path / "photos", labelled=False)) == 4


def test_folders_called_by_numbers_are_class_numbers(tmp_path: Path) -> None:
    for number in range(12):
        save_picture(tmp_path / "digits" / str(number) / "a.png", number)
    written = write_shards(folder_rows(tmp_path / "digits"), tmp_path / "s")
    recipe = load_lines(recipe_lines(written), tmp_path / "recipe.yaml")
    labels = labels_by_key(recipe, "digits")
    assert {key: int(label) for key, label in labels.items()} == {f"{n}-a": n for n in range(12)}


def test_a_class_that_could_be_a_name_or_a_number_is_refused(tmp_path: Path) -> None:
    for name in ("1", "cat", "dog"):
        save_picture(tmp_path / "photos" / name / "a.png", 1)
    with pytest.raises(ShardError, match="the class '1' could be a name or class number 1"):
        folder_rows(tmp_path / "photos")


# ---- a table --------------------------------------------------------------------------------------
def test_a_table_gives_several_labels_to_a_row(tmp_path: Path) -> None:
    lines = ["file,breed,smiling,young,yaw,pitch,person,light,lens"]
    for number in range(6):
        save_picture(tmp_path / "img" / f"{number}.png", number)
        young = "" if number == 2 else "1"
        lines.append(
            f"{number}.png,{ANIMALS[number % 3]},{1 - 2 * (number % 2)},{young},{number / 2},3,p{number // 2},"
            f"{'night' if number == 1 else ''},0{number}"
        )
    (tmp_path / "faces.csv").write_text("\n".join(lines))
    rows = table_rows(
        tmp_path / "faces.csv",
        {"cls": ["breed"], "attributes.json": ["smiling", "young"], "values.json": ["yaw", "pitch"]},
        images=tmp_path / "img",
        image="file",
        group="person",
        slices=["light", "yaw", "lens"],
    )
    written = write_shards(rows, tmp_path / "faces")
    stored = members(written.shards)
    for number in range(6):
        row = stored[str(number)]
        assert row["cls"].decode() == ANIMALS[number % 3]
        assert row["group"].decode() == f"p{number // 2}"
        light = {"light": "night"} if number == 1 else {}
        yaw = number // 2 if number % 2 == 0 else number / 2
        assert json.loads(row["slice.json"]) == light | {"yaw": yaw, "lens": f"0{number}"}
        young = None if number == 2 else 1
        assert json.loads(row["attributes.json"]) == {"smiling": int(number % 2 == 0), "young": young}
        assert json.loads(row["values.json"]) == {"yaw": number / 2, "pitch": 3}
    counts = written.counts
    assert counts.labels["attributes.json"].counts["smiling"] == {"1": 3, "0": 3}
    assert counts.labels["attributes.json"].counts["young"] == {"1": 5, "unknown": 1}
    yaw = counts.labels["values.json"].numbers["yaw"]
    assert (yaw.mean, yaw.least, yaw.largest) == (1.25, 0, 2.5)
    assert yaw.std == pytest.approx(np.std(np.arange(6) / 2))


def test_all_other_columns_of_a_table_may_be_meant(tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png", 1)
    (tmp_path / "celeba.csv").write_text("image_id,Bald,Smiling\na.png,-1,1\n")
    rows = table_rows(tmp_path / "celeba.csv", {"attributes.json": ["*"]}, image="image_id")
    assert rows.labels[0].classes == ("Bald", "Smiling")
    assert json.loads(rows.read(0).members["attributes.json"]) == {"Bald": 0, "Smiling": 1}


def test_json_lines_hold_boxes_and_paths_of_masks(tmp_path: Path) -> None:
    things = [{"class": "cup", "box": [1, 2, 3, 2]}, {"class": "spoon", "box": [4.5, 1, 2, 2]}]
    rows = []
    for number, found in enumerate((things, [])):
        save_picture(tmp_path / f"{number}.png", number)
        save_mask(tmp_path / "masks" / f"{number}.png", number)
        rows.append({"image": f"{number}.png", "things": found, "mask": f"masks/{number}.png"})
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    written = write_shards(
        table_rows(tmp_path / "t.jsonl", {"boxes.json": ["things"], "seg.png": ["mask"]}), tmp_path / "s"
    )
    stored = members(written.shards)
    assert json.loads(stored["0"]["boxes.json"]) == things
    assert json.loads(stored["1"]["boxes.json"]) == []
    assert stored["0"]["seg.png"] == (tmp_path / "masks" / "0.png").read_bytes()
    lines = recipe_lines(written)
    assert "kind: heatmap\n    classes: [cup, spoon]" in lines
    assert "labels:\n      things: boxes.json\n      mask: seg.png" in lines


@pytest.mark.parametrize(
    ("label", "columns", "cell", "finding"),
    [
        ("cls", ["a"], "", r"line 2: no cls \(a\)"),
        ("cls", ["a"], "-1", "class numbers begin at 0"),
        ("attributes.json", ["a"], "2", "a is '2'; 0 or 1"),
        ("values.json", ["a"], "tall", "a is 'tall'; a number is expected"),
        ("values.json", ["a"], "inf", "a finite number"),
        ("boxes.json", ["a"], "[[1 2]]", "a is not JSON"),
        (
            "boxes.json",
            ["a"],
            '"[{""class"": 0, ""box"": [1, 2, 0, 2]}]"',
            r"line 2: .*object 1 .*without area, \[1.0, 2.0, 0.0, 2.0\]",
        ),
        ("boxes.json", ["a"], '"[{""box"": [1, 2, 1, 2]}]"', "line 2: .*object 1 .*no `class`"),
        ("clss", ["a"], "1", "Did you mean 'cls'"),
        ("cls", ["b"], "1", "has no column 'b'. Columns: image, a"),
        ("cls", ["a"], "1,2", "line 2 has more or fewer cells"),
    ],
)
def test_a_mistake_in_a_table_is_named(
    tmp_path: Path, label: str, columns: list[str], cell: str, finding: str
) -> None:
    save_picture(tmp_path / "x.png", 1)
    (tmp_path / "t.csv").write_text(f"image,a\nx.png,{cell}\n")
    with pytest.raises(ShardError, match=finding):
        table_rows(tmp_path / "t.csv", {label: columns})


def test_rows_that_lack_a_label_are_left_out_and_counted_if_asked(tmp_path: Path) -> None:
    for number in range(2):
        save_picture(tmp_path / f"{number}.png", number)
    (tmp_path / "t.csv").write_text("image,a\n0.png,cat\n1.png,\n")
    rows = table_rows(tmp_path / "t.csv", {"cls": ["a"]}, allow_missing=True)
    assert (len(rows), rows.left_out) == (1, {"rows that lack a label": 1})


# ---- pairs ----------------------------------------------------------------------------------------
def test_pairs_come_back_pixel_by_pixel(tmp_path: Path) -> None:
    for number in range(5):
        save_picture(tmp_path / "img" / "seq" / f"{number}.png", number)
        save_mask(tmp_path / "ids" / "seq" / f"{number}_mask.png", number)
    written = write_shards(
        pair_rows(tmp_path / "img", tmp_path / "ids", strip=["_mask"], task="road"),
        tmp_path / "road",
        rows_per_shard=2,
    )
    recipe = load_lines(recipe_lines(written), tmp_path / "recipe.yaml")
    assert (recipe.tasks["road"].kind, recipe.tasks["road"].classes) == ("segmentation", 3)
    labels, stored = labels_by_key(recipe, "road"), members(written.shards)
    for number in range(5):
        assert np.array_equal(labels[f"seq-{number}"].numpy(), mask(number))
        assert np.array_equal(picture_of(stored[f"seq-{number}"]), pixels(number))


def test_the_ignored_number_is_no_class(tmp_path: Path) -> None:
    save_picture(tmp_path / "img" / "a.png", 0)
    save_mask(tmp_path / "ids" / "a.png", 0, classes=12)
    rows = pair_rows(tmp_path / "img", tmp_path / "ids", options={"ignore_index": 11})
    recipe = load_lines(recipe_lines(write_shards(rows, tmp_path / "s")), tmp_path / "recipe.yaml")
    task = next(iter(recipe.tasks.values()))
    assert (task.classes, task.options) == (11, {"ignore_index": 11})


def test_files_in_other_folders_are_paired_by_name_alone(tmp_path: Path) -> None:
    save_picture(tmp_path / "img" / "day" / "a.png", 0)
    save_mask(tmp_path / "ids" / "annotated" / "a.png", 0)
    assert len(pair_rows(tmp_path / "img", tmp_path / "ids")) == 1


def test_a_file_without_partner_is_refused_or_counted(tmp_path: Path) -> None:
    for number in range(3):
        save_picture(tmp_path / "img" / f"{number}.png", number)
    for number in range(1, 5):
        save_mask(tmp_path / "ids" / f"{number}.png", number)
    with pytest.raises(ShardError, match=r"1 files .*img.*no partner.*ids \(0\.png\).* 2 files .*ids"):
        pair_rows(tmp_path / "img", tmp_path / "ids")
    rows = pair_rows(tmp_path / "img", tmp_path / "ids", allow_missing=True)
    assert (len(rows), rows.left_out) == (2, {"pictures without a mask": 1, "masks without a picture": 2})


def test_one_folder_may_hold_both(tmp_path: Path) -> None:
    for number in range(3):
        save_picture(tmp_path / f"{number}_rgb.png", number)
        save_mask(tmp_path / f"{number}_ids.png", number)
    rows = pair_rows(
        tmp_path, tmp_path, strip=["_rgb", "_ids"], image_pattern="*_rgb.png", mask_pattern="*_ids.png"
    )
    assert [rows.key(number) for number in range(3)] == ["0", "1", "2"]


def test_depth_and_normals_are_looked_at(tmp_path: Path) -> None:
    save_picture(tmp_path / "img" / "a.png", 0)
    depth = np.arange(48, dtype=np.uint16).reshape(6, 8)
    (tmp_path / "d").mkdir()
    Image.fromarray(depth).save(tmp_path / "d" / "a.png")
    np.save(tmp_path / "d" / "a.npy", np.where(depth == 3, np.nan, depth).astype(np.float32))
    Image.fromarray(pixels(1) // 4).save(tmp_path / "d" / "a_n.png")  # far from mid-grey
    written = write_shards(
        pair_rows(tmp_path / "img", tmp_path / "d", member="depth.png", mask_pattern="a.png"), tmp_path / "1"
    )
    assert written.counts.labels["depth.png"].counts["pixels"] == {"labelled": 47, "unlabelled": 1}
    assert written.counts.labels["depth.png"].numbers["depth"].largest == pytest.approx(0.047)
    written = write_shards(pair_rows(tmp_path / "img", tmp_path / "d", member="depth.npy"), tmp_path / "2")
    assert written.counts.labels["depth.npy"].counts["pixels"] == {"labelled": 46, "unlabelled": 2}
    assert "member: depth.npy" in recipe_lines(written)
    normals = pair_rows(
        tmp_path / "img", tmp_path / "d", member="normals.png", mask_pattern="a_n.png", strip=["_n"]
    )
    assert (
        write_shards(normals, tmp_path / "3").counts.labels["normals.png"].counts["pixels"]["labelled"] == 48
    )
    wrong = pair_rows(
        tmp_path / "img", tmp_path / "d", member="depth.png", mask_pattern="a_n.png", strip=["_n"]
    )
    with pytest.raises(ShardError, match=r"depth\.png.*mode RGB.*16 bits"):
        write_shards(wrong, tmp_path / "4")


# ---- torchvision ----------------------------------------------------------------------------------
def test_a_data_set_of_torchvision_comes_back(tmp_path: Path) -> None:
    arguments = {"size": 7, "image_size": [3, 6, 8], "num_classes": 4}
    written = write_shards(torchvision_rows("FakeData", arguments=arguments), tmp_path / "fake")
    data, stored = torchvision.datasets.FakeData(**arguments), members(written.shards)
    assert len(stored) == 7
    for number in range(7):
        picture, target = data[number]
        assert np.array_equal(picture_of(stored[f"fakedata-{number}"]), np.asarray(picture))
        assert int(stored[f"fakedata-{number}"]["cls"]) == int(target)


def test_files_behind_torchvision_are_copied_as_they_are(tmp_path: Path) -> None:
    folder = animals(tmp_path / "photos", 6)
    rows = torchvision_rows("ImageFolder", folder)
    written = write_shards(rows, tmp_path / "s")
    files = {path.read_bytes() for path in folder.rglob("*.png")}
    assert {row["png"] for row in members(written.shards).values()} == files
    assert rows.labels[0].classes == ANIMALS


@pytest.mark.parametrize(
    ("name", "arguments", "finding"),
    [
        ("FakeDatta", {}, "Did you mean 'FakeData'"),
        ("FakeData", {"sizes": 3}, "has no argument 'sizes'. Did you mean 'size'"),
        ("MNIST", {}, "Name it with --root"),
    ],
)
def test_a_mistake_about_torchvision_is_named(name: str, arguments: dict[str, int], finding: str) -> None:
    with pytest.raises(ShardError, match=finding):
        torchvision_rows(name, arguments=arguments)


def test_data_that_torchvision_does_not_find_is_not_fetched(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="cannot be opened: .*--download fetches it"):
        torchvision_rows("MNIST", tmp_path)


def test_keys_differ_and_end_nowhere_early(tmp_path: Path) -> None:
    for name in ("a.b.png", "a_b.png", "__a b__.png", "ü/a.b.png"):
        save_picture(tmp_path / "img" / name, len(name))
    stored = members(write_shards(folder_rows(tmp_path / "img", labelled=False), tmp_path / "s").shards)
    assert sorted(stored) == ["a_b", "a_b-2", "a_b__", "ü-a_b"]
    assert all(tuple(row) == ("png",) for row in stored.values())
    assert digests(tmp_path / "s")
