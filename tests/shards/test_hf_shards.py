"""Data sets of Hugging Face come back from their shards as `datasets` gives them, in every form that it saves."""

import json
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from annotated_data import mask_picture
from people_data import ANIMALS, animals, labels_by_key, load_lines, members, picture_of, pixels
from PIL import Image

from distill_mtl import shards_from_hf
from distill_mtl.errors import ShardError, UserError
from distill_mtl.shards import hf_sets, write_shards
from distill_mtl.shards.shard_summary import recipe_lines

ANIMAL = datasets.ClassLabel(names=list(ANIMALS))


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No hub, and a cache of this test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def made(rows: int = 4, **columns: tuple[Any, list[Any]]) -> datasets.Dataset:
    """A data set of pictures and other columns: type and cells."""
    pictures = [Image.fromarray(pixels(number)) for number in range(rows)]
    features = {"image": datasets.Image(), **{name: feature for name, (feature, _) in columns.items()}}
    content = {"image": pictures, **{name: cells for name, (_, cells) in columns.items()}}
    return datasets.Dataset.from_dict(content, features=datasets.Features(features))


def save(data: datasets.Dataset, folder: Path, form: str) -> Path:
    if form == "disk":
        datasets.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(folder)
    elif form == "parquet":
        folder.mkdir()
        data.to_parquet(folder / "train-00000.parquet")
        data.select([0]).to_parquet(folder / "test-00000.parquet")
    else:
        for split, rows in (("train", data), ("test", data.select([0]))):
            for number, row in enumerate(rows):
                path = folder / split / ANIMALS[row["label"]] / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                row["image"].save(path)
    return folder


@pytest.mark.parametrize("form", ["disk", "parquet", "imagefolder"])
def test_pictures_and_classes_are_those_of_datasets(tmp_path: Path, form: str) -> None:
    folder = save(made(label=(ANIMAL, [2, 0, 1, 2])), tmp_path / "data", form)
    sets = hf_sets(folder)
    assert {name: len(rows) for name, rows in sets.items()} == {"train": 4, "test": 1}
    written = write_shards(sets["train"], tmp_path / "s", workers=0)
    stored = members(written.shards)
    reference = datasets.load_from_disk(folder) if form == "disk" else datasets.load_dataset(str(folder))
    for number, row in enumerate(reference["train"]):
        assert int(stored[f"train-{number}"]["cls"]) == row["label"]
        assert np.array_equal(picture_of(stored[f"train-{number}"]), np.asarray(row["image"]))
    assert written.notes == ("columns: picture: image; cls: label",)
    assert "classes: [bird, cat, dog]" in recipe_lines(written)


def test_pictures_that_a_table_names_elsewhere_are_read_and_counted(tmp_path: Path) -> None:
    for place in (tmp_path / "out.png", tmp_path / "data" / "in.png"):
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels(1)).save(place)
    cells = [{"bytes": None, "path": str(tmp_path / one)} for one in ("data/in.png", "data/../out.png")]
    lines = [json.dumps({"image": cell, "label": "cat"}) for cell in cells]
    (tmp_path / "data" / "rows.jsonl").write_text("\n".join(lines))
    (rows,) = hf_sets(tmp_path / "data" / "rows.jsonl").values()
    (note,) = rows.notes[1:]
    assert note.startswith(f"1 of its files are named outside of {tmp_path / 'data'}, the first ")
    assert "data/../out.png" in note
    assert rows.read(1).picture == (tmp_path / "out.png").read_bytes()


def test_the_command_prints_columns_and_the_lines_of_all_splits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = made(label=(ANIMAL, [2, 0, 1, 2]), id=(datasets.Value("int64"), [1, 2, 3, 4]))
    written = shards_from_hf(save(data, tmp_path / "data", "disk"), to=tmp_path / "s", workers=2)
    said = capsys.readouterr().out
    assert "columns: picture: image; cls: label (not used: id)" in said
    recipe = load_lines(said.partition("in a recipe:")[2], tmp_path / "recipe.yaml")
    assert recipe.data["s"].split.test == str(written["test"].shards[0])
    assert set(map(int, labels_by_key(recipe, "s").values())) == {0, 1, 2}


@pytest.mark.parametrize("listed", [False, True])
def test_objects_become_boxes_in_either_form_of_a_list(tmp_path: Path, listed: bool) -> None:
    box, kind = datasets.List(datasets.Value("float32"), 4), datasets.ClassLabel(names=["cup", "spoon"])
    fields = {"bbox": box, "category": kind}
    feature = datasets.List(fields) if listed else {key: datasets.List(one) for key, one in fields.items()}
    things = [{"bbox": [1, 2, 3, 2], "category": 1}, {"bbox": [0, 0, 4, 4.5], "category": 0}]
    cells: list[Any] = [things, [], things[:1], things]
    if not listed:
        cells = [{key: [thing[key] for thing in some] for key in fields} for some in cells]
    rows = hf_sets(save(made(objects=(feature, cells)), tmp_path / "data", "disk"))["train"]
    written = write_shards(rows, tmp_path / "s", workers=0)
    found = json.loads(members(written.shards)["train-0"]["boxes.json"])
    assert found == [{"class": "spoon", "box": [1, 2, 3, 2]}, {"class": "cup", "box": [0, 0, 4, 4.5]}]
    assert "classes: [cup, spoon]" in recipe_lines(written)
    corners = hf_sets(tmp_path / "data", boxes="xyxy")["train"].read(0).members["boxes.json"]
    assert json.loads(corners) == [{"class": "cup", "box": [0, 0, 4, 4.5]}]
    assert hf_sets(tmp_path / "data", boxes="xyxy")["train"].left_out == {"boxes without area": 3}


def test_a_second_picture_is_a_mask(tmp_path: Path) -> None:
    masks = [mask_picture(number) for number in range(4)]
    rows = hf_sets(save(made(annotation=(datasets.Image(), masks)), tmp_path / "data", "disk"))["train"]
    stored = members(write_shards(rows, tmp_path / "s", workers=0).shards)
    for number, mask in enumerate(masks):
        assert np.array_equal(
            np.asarray(Image.open(BytesIO(stored[f"train-{number}"]["seg.png"]))), np.asarray(mask)
        )


def test_numbers_and_lists_of_classes_are_labels_too(tmp_path: Path) -> None:
    number = datasets.Value("float64")
    data = made(
        yaw=(number, [0.5, 1, 2, 3]),
        pitch=(number, [1, None, 3, 4]),
        kinds=(datasets.List(ANIMAL), [[0, 2], [], [1], [0]]),
    )
    rows = hf_sets(save(data, tmp_path / "data", "disk"))["train"]
    written = write_shards(rows, tmp_path / "s", workers=0)
    stored = members(written.shards)
    assert json.loads(stored["train-1"]["values.json"]) == {"yaw": 1, "pitch": None}
    assert json.loads(stored["train-0"]["attributes.json"]) == {"bird": 1, "cat": 0, "dog": 1}
    assert "labels:\n" in recipe_lines(written)


def test_names_in_a_column_of_text_are_classes(tmp_path: Path) -> None:
    data = made(species=(datasets.Value("string"), ["owl", "ant", "owl", "bee"]))
    with pytest.raises(
        ShardError, match=r"no column is a label of a known form.*species \(string\).*--label"
    ):
        hf_sets(save(data, tmp_path / "data", "disk"))
    rows = hf_sets(tmp_path / "data", labels={"cls": ["species"]})["train"]
    assert rows.labels[0].classes == ("ant", "bee", "owl")
    assert rows.read(0).members == {"cls": b"owl"}
    alone = hf_sets(tmp_path / "data", unlabelled=True)["train"]
    assert (list(alone.labels), alone.read(0).members) == ([], {})


def test_rows_whose_class_is_kept_secret_are_named_or_left_out(tmp_path: Path) -> None:
    folder = save(made(label=(ANIMAL, [-1, 0, 1, 2])), tmp_path / "data", "disk")
    with pytest.raises(ShardError, match="data, train: 1 of 4 rows have no label. .*--allow-missing"):
        hf_sets(folder)
    with pytest.raises(
        ShardError, match="data, test: 1 of 1 rows have no label. Leave the split out with --sets"
    ):
        hf_sets(folder, allow_missing=True)
    rows = hf_sets(folder, allow_missing=True, sets=["train"])["train"]
    assert [rows.key(number) for number in range(len(rows))] == ["train-1", "train-2", "train-3"]
    assert rows.left_out == {"rows without label": 1}


def test_a_file_of_parquet_without_the_packages_own_notes_is_read(tmp_path: Path) -> None:
    """The picture is a mapping of bytes and path there, as other programs write it."""
    import pyarrow
    import pyarrow.parquet

    cells = [{"bytes": BytesIO(), "path": None} for _ in range(2)]
    for number, cell in enumerate(cells):
        Image.fromarray(pixels(number)).save(cell["bytes"], "JPEG")
        cell["bytes"] = cell["bytes"].getvalue()
    table = pyarrow.table({"image": cells, "label": [1, 0]})
    pyarrow.parquet.write_table(table, tmp_path / "val.parquet")
    rows = hf_sets(tmp_path / "val.parquet")["val"]
    assert rows.labels[0].classes == 2
    content = rows.read(0)
    assert (content.ending, content.picture, content.members) == ("jpg", cells[0]["bytes"], {"cls": b"1"})


# ---- what cannot be read ------------------------------------------------------------------------------
def test_columns_that_are_not_clear_are_asked_for(tmp_path: Path) -> None:
    two = made(
        fine_label=(ANIMAL, [0] * 4), coarse_label=(ANIMAL, [0] * 4), left=(datasets.Image(), [None] * 4)
    )
    folder = save(two.rename_column("image", "right"), tmp_path / "data", "disk")
    with pytest.raises(ShardError, match=r"several columns are pictures \(right, left\)|\(left, right\)"):
        hf_sets(folder)
    with pytest.raises(
        ShardError, match="several columns could be cls: fine_label, coarse_label.*--label cls=fine_label"
    ):
        hf_sets(folder, image="right")
    with pytest.raises(ShardError, match=r"no column 'coarse'.*fine_label"):
        hf_sets(folder, image="right", labels={"cls": ["coarse"]})
    with pytest.raises(ShardError, match="the column fine_label is no picture, but ClassLabel"):
        hf_sets(folder, image="fine_label")
    with pytest.raises(ShardError, match=r"column fine_label is ClassLabel.*bbox, category"):
        hf_sets(folder, image="right", labels={"boxes.json": ["fine_label"]})


BOX = datasets.List(datasets.Value("float32"))
THINGS: list[tuple[str, Any, Any, str]] = [
    ("a class that is unknown", ANIMAL, [{"bbox": [1, 2, 3, 2], "category": -1}], "class number -1, and there are 3"),
    ("a box of three", ANIMAL, [{"bbox": [1, 2, 3], "category": 0}], "four numbers is expected, found a list of 3"),
    ("no box", ANIMAL, [{"bbox": None, "category": 0}], "a box of four numbers is expected, found None"),
    ("a negative width", ANIMAL, [{"bbox": [1, 2, -3, 2], "category": 0}], "a box without area"),
    ("shares", ANIMAL, [{"bbox": [0.1, 0.2, 0.3, 0.2], "category": 0}], "not in shares"),
    ("a list for a class", datasets.List(ANIMAL), [{"bbox": [1, 2, 3, 2], "category": [0]}], "of .bbox, category. is"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "things", "said"), [case[1:] for case in THINGS], ids=[case[0] for case in THINGS]
)
def test_objects_that_are_none_are_refused_by_their_row(
    tmp_path: Path, kind: Any, things: Any, said: str
) -> None:
    feature = datasets.List({"bbox": BOX, "category": kind})
    folder = save(made(objects=(feature, [things, [], [], []])), tmp_path / "data", "disk")
    with pytest.raises(ShardError, match=said):
        write_shards(hf_sets(folder, labels={"boxes.json": ["objects"]})["train"], tmp_path / "s", workers=0)


def test_lists_of_different_lengths_are_refused(tmp_path: Path) -> None:
    feature = {"bbox": datasets.List(BOX), "category": datasets.List(ANIMAL)}
    cells = [{"bbox": [[1, 2, 3, 2]], "category": [0, 1]}] * 4
    with pytest.raises(ShardError, match="data, train: the lists of objects differ in length in row 0"):
        hf_sets(save(made(objects=(feature, cells)), tmp_path / "data", "disk"))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"seg.png": ["label"]}, "seg.png is a picture, and the column label is ClassLabel"),
        ({"cls": ["objects"]}, "cls is a number or a name, and the column objects is list of float32"),
        ({"cls": ["label", "other"]}, "--label cls=...: takes one column"),
        ({"clss": ["label"]}, "no kind of task has a label clss"),
    ],
)
def test_a_column_of_another_type_is_no_label(
    tmp_path: Path, labels: dict[str, list[str]], said: str
) -> None:
    data = made(label=(ANIMAL, [0] * 4), other=(ANIMAL, [0] * 4), objects=(BOX, [[1.0]] * 4))
    with pytest.raises(ShardError, match=said):
        hf_sets(save(data, tmp_path / "data", "disk"), labels=labels)


def test_a_mask_of_a_lossy_format_is_refused(tmp_path: Path) -> None:
    encoded = BytesIO()
    Image.fromarray(pixels(0)).save(encoded, "JPEG")
    cells = [{"bytes": encoded.getvalue(), "path": None}] * 4
    rows = hf_sets(save(made(mask=(datasets.Image(), cells)), tmp_path / "data", "disk"))["train"]
    with pytest.raises(ShardError, match="row 0.*mask: the picture of a label is a JPEG"):
        write_shards(rows, tmp_path / "s", workers=0)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "nobody/nothing",
            r"nobody/nothing cannot be opened: .*hf download nobody/nothing --repo-type dataset",
        ),
        ("./nowhere", "there is no such file or folder"),
        ("nowhere.parquet", "there is no such file or folder"),
        ("notes.txt", "files of .parquet, .*are read"),
        ("broken.parquet", "broken.parquet cannot be opened: "),
        ("empty", "empty cannot be opened: .*parquet files.*is expected"),
    ],
)
def test_what_cannot_be_opened_is_one_message_with_its_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for file in ("notes.txt", "broken.parquet"):
        (tmp_path / file).write_text("nothing")
    with pytest.raises(ShardError, match=said):
        hf_sets(name)


def test_the_package_is_asked_for_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"needs the package datasets: pip install 'distill_mtl\[datasets\]'"):
        hf_sets("owner/name")


def test_code_beside_the_data_is_not_run(tmp_path: Path) -> None:
    animals(tmp_path / "data", 3)
    (tmp_path / "data" / "data.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ShardError, match="scripts are no longer supported"):
        hf_sets(tmp_path / "data")
    assert not (tmp_path / "ran").exists()
