"""What `shards` writes, training reads: every label is read, checked and counted by its kind of task."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from people_data import labels_by_key, load_lines, save_picture
from PIL import Image

from distill_mtl.errors import ShardError, UserError
from distill_mtl.shards import folder_rows, pair_rows, table_rows, torchvision_rows, write_shards
from distill_mtl.shards.label_kinds import FoundLabel, LabelKinds
from distill_mtl.shards.listed_rows import ListedRows, RowContent
from distill_mtl.shards.shard_summary import recipe_lines, show
from distill_mtl.tasks.base import KINDS, kinds_by_member
from distill_mtl.tasks.label import LabelCounts

SIZE = (6, 8)


class OwnRows(ListedRows):
    """Rows that somebody lists in Python: one picture, and a label as it is."""

    def __init__(self, member: str, labels: Sequence[bytes], classes: Any = None, **options: Any) -> None:
        self.what, self.left_out = {"origin": "own"}, dict[str, int]()
        self.labels = LabelKinds(options=options).build([FoundLabel(member, "task", classes)])
        self._member, self._payloads = member, labels

    def __len__(self) -> int:
        return len(self._payloads)

    def key(self, number: int) -> str:
        return f"row{number}"

    def place(self, number: int) -> str:
        return f"row {number}"

    def digest(self) -> str:
        return str(self._payloads)

    def read(self, number: int) -> RowContent:
        return RowContent(
            "png", encoded(np.full((*SIZE, 3), number, np.uint8)), {self._member: self._payloads[number]}
        )


def encoded(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def array(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def table(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """A table in JSON lines of pictures and other cells."""
    for number in range(len(rows)):
        save_picture(folder / f"{number}.png", number)
    lines = [json.dumps({"image": f"{number}.png", **row}) for number, row in enumerate(rows)]
    (folder / "t.jsonl").write_text("\n".join(lines))
    return folder / "t.jsonl"


# ---- what shards wrote and training refused ----------------------------------------------------------
BOX = {"class": "cup", "box": [1, 2, 3, 2]}


@pytest.mark.parametrize(
    ("objects", "finding"),
    [
        (
            [BOX, {"class": "cup", "box": [0.1, 0.2, 0.3, 0.4]}],
            r"object 2 .*\[0\.1, 0\.2, 0\.3, 0\.4\].*shares",
        ),
        ([BOX] * 70, r"70 objects.*max_objects is 64.*--option"),
        ([BOX, {"class": "cup", "point": [1, 2]}], r"object 2 .*`box.*found .*point.*`form: points`"),
        ([BOX, {"class": True, "box": [1, 2, 3, 2]}], r"object 2 .*class true"),
        ([BOX, {"class": 7, "box": [1, 2, 3, 2]}], r"object 2 .*class 7"),
        ([{**BOX, "box": [1, 2, 1e39, 2]}], r"object 1 .*`box"),
        ({"class": "cup"}, r"not a list"),
    ],
)
def test_objects_that_training_would_refuse_are_refused_by_their_line(
    tmp_path: Path, objects: Any, finding: str
) -> None:
    file = table(tmp_path, [{"things": [BOX]}, {"things": objects}])
    with pytest.raises(ShardError, match=r"t\.jsonl: 1 rows.*line 2: boxes\.json.*" + finding):
        table_rows(file, {"boxes.json": ["things"]})


def test_an_option_of_the_kind_lets_more_objects_in_and_stands_in_the_recipe(tmp_path: Path) -> None:
    file = table(tmp_path, [{"things": [BOX] * 70}])
    rows = table_rows(file, {"boxes.json": ["things"]}, options={"max_objects": 100})
    recipe = load_lines(recipe_lines(write_shards(rows, tmp_path / "s")), tmp_path / "recipe.yaml")
    assert recipe.tasks["things"].options == {"max_objects": 100}
    assert (labels_by_key(recipe, "things")["0"][:, 0] >= 0).sum() == 70


def test_points_are_recognised_and_the_recipe_says_so(tmp_path: Path) -> None:
    file = table(tmp_path, [{"things": []}, {"things": [{"class": "tip", "point": [4.5, 1]}]}])
    rows = table_rows(file, {"boxes.json": ["things"]})
    recipe = load_lines(recipe_lines(write_shards(rows, tmp_path / "s")), tmp_path / "recipe.yaml")
    assert recipe.tasks["things"].options == {"form": "points"}
    assert labels_by_key(recipe, "things")["1"][0, :3].tolist() == [0, 4.5, 1]


@pytest.mark.parametrize(
    ("member", "good", "wrong", "classes", "finding"),
    [
        ("values.json", b"[1, 2]", b"[1, NaN]", 2, "NaN"),
        ("values.json", b"[1, 2]", b"[1, 1e39]", 2, r"'1' is 1e\+39"),
        ("values.json", b"[1, 2]", b"[1]", 2, "1 values"),
        ("attributes.json", b"[1, 0]", b"[1, 3]", 2, "'1' is 3"),
        ("attributes.json", b"[1, 0]", b'{"2": 1}', 2, "names '2'"),
        ("cls", b"1", b"2", 2, "'2' .*0 to 1"),
        ("cls", b"cat", b"cow", ("cat", "dog"), "'cow'"),
        ("cls", b"0", b"-1", None, "'-1'"),
        (
            "seg.png",
            encoded(np.zeros(SIZE, np.uint8)),
            encoded(np.zeros((*SIZE, 3), np.uint8)),
            None,
            "mode RGB",
        ),
        ("seg.png", encoded(np.zeros(SIZE, np.uint8)), encoded(np.zeros((5, 8), np.uint8)), None, "8x5.*8x6"),
        ("depth.png", encoded(np.ones(SIZE, np.uint16)), encoded(np.ones(SIZE, np.uint8)), None, "mode L"),
        ("depth.npy", array(np.ones(SIZE, np.float32)), array(np.ones((6, 8, 1), np.float32)), None, "6x8x1"),
        (
            "normals.npy",
            array(np.ones((*SIZE, 3), np.float32)),
            array(np.ones(SIZE, np.int64)),
            None,
            "int64",
        ),
    ],
)
def test_a_label_that_training_would_refuse_is_refused_by_its_row(
    tmp_path: Path, member: str, good: bytes, wrong: bytes, classes: Any, finding: str
) -> None:
    rows = OwnRows(member, [good, good, wrong], classes)
    with pytest.raises(ShardError, match=rf"1 row .*\n  row 2: {member} \(.*{finding}"):
        write_shards(rows, tmp_path / "s", workers=0)
    assert not list((tmp_path / "s").glob("*.tar"))


def test_a_number_that_float32_cannot_hold_is_refused_by_its_line(tmp_path: Path) -> None:
    file = table(tmp_path, [{"v": 1}, {"v": "1e39"}])
    with pytest.raises(ShardError, match=r"line 2: values\.json.*'v' is 1e\+39"):
        table_rows(file, {"values.json": ["v"]})


def test_a_target_of_torchvision_that_is_no_label_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets

    class Attributes(datasets.FakeData):
        """A value 3 in one row of many, which is none of those that are looked at first."""

        def __getitem__(self, index: int) -> tuple[Any, Any]:
            return super().__getitem__(index)[0], torch.tensor([1, 3 if index == 7 else 0])

    monkeypatch.setattr(datasets, "FakeData", Attributes)
    rows = torchvision_rows("FakeData", arguments={"size": 40, "image_size": [3, 6, 8]})
    with pytest.raises(ShardError, match=r"FakeData, row 7: attributes\.json.*'1' is 3"):
        write_shards(rows, tmp_path / "s", workers=0)


@pytest.mark.parametrize(
    ("options", "finding"),
    [
        ({"max_object": 9}, r"--option max_object.*Did you mean 'max_objects'"),
        ({"max_objects": "many"}, r"max_objects.*'many'"),
        ({"ignore_index": 9}, r"--option ignore_index.*Known: form, max_objects"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(
    tmp_path: Path, options: dict[str, Any], finding: str
) -> None:
    file = table(tmp_path, [{"things": [BOX]}])
    with pytest.raises(UserError, match=finding):
        table_rows(file, {"boxes.json": ["things"]}, options=options)


def test_only_labels_that_are_files_can_be_paired(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"--member cls.*seg\.png"):
        pair_rows(tmp_path, tmp_path, member="cls")


# ---- counts are those of the labels that training reads ------------------------------------------------
def test_grey_normals_are_counted_as_training_counts_them(tmp_path: Path) -> None:
    grey = encoded(np.full((*SIZE, 3), 128, np.uint8))
    facing = encoded(np.tile(np.array([128, 128, 255], np.uint8), (*SIZE, 1)))
    written = write_shards(OwnRows("normals.png", [grey, facing]), tmp_path / "s", workers=0)
    counts = written.counts.labels["normals.png"]
    assert counts.counts["pixels"] == {"labelled": 48, "unlabelled": 48}
    assert (counts.rows, counts.labelled) == (2, 1)


@pytest.mark.parametrize(
    ("member", "empty", "classes"),
    [
        ("seg.png", encoded(np.full(SIZE, 255, np.uint8)), None),
        ("depth.npy", array(np.full(SIZE, np.nan, np.float32)), None),
        ("values.json", b"[null, null]", 2),
        ("attributes.json", b"[null, null]", 2),
    ],
)
def test_rows_whose_label_says_nothing_are_counted_and_told(
    tmp_path: Path, member: str, empty: bytes, classes: Any
) -> None:
    from rich.console import Console

    written = write_shards(OwnRows(member, [empty, empty], classes), tmp_path / "s", workers=0)
    assert written.counts.labels[member].labelled == 0
    console = Console(file=io.StringIO(), width=200)
    show(console, written)
    assert f"2 of 2 rows have an empty {member}" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_class_that_nobody_has_is_listed_with_its_zero(tmp_path: Path) -> None:
    rows = OwnRows("cls", [b"0", b"dog", b"0"], ("cat", "dog", "fox"))
    label = rows.labels[0]
    counts = write_shards(rows, tmp_path / "s", workers=0).counts.labels["cls"]
    assert label.kind.counts_table(counts).lines == [("cat", "2"), ("dog", "1"), ("fox", "0")]


def test_a_value_that_is_never_known_keeps_its_place_in_the_recipe(tmp_path: Path) -> None:
    rows = OwnRows("values.json", [b"[1, null, 10]", b"[3, null, 30]"], 3)
    recipe = load_lines(recipe_lines(write_shards(rows, tmp_path / "s", workers=0)), tmp_path / "r.yaml")
    assert recipe.tasks["task"].options == {"offset": [2, 0, 20], "scale": [1, 1, 10]}


def test_one_class_is_written_and_the_summary_asks_for_the_others(tmp_path: Path) -> None:
    from rich.console import Console

    save_picture(tmp_path / "photos" / "cat" / "a.png", 1)
    written = write_shards(folder_rows(tmp_path / "photos"), tmp_path / "s", workers=0)
    console = Console(file=io.StringIO(), width=200)
    show(console, written)
    assert "needs at least 2 classes" in console.file.getvalue()  # type: ignore[attr-defined]
    assert "classes: [cat]" in recipe_lines(written)


def test_a_folder_whose_name_is_not_text_is_named(tmp_path: Path) -> None:
    import os

    folder = os.fsencode(tmp_path) + b"/photos/b\xfcr"
    try:
        os.makedirs(folder)
    except OSError:
        pytest.skip("this file system takes no such name")
    save_picture(tmp_path / "photos" / "cat" / "a.png", 1)
    with open(folder + b"/a.png", "wb") as file:
        file.write(encoded(np.zeros((*SIZE, 3), np.uint8)))
    with pytest.raises(ShardError, match="sub-folder.*not UTF-8"):
        folder_rows(tmp_path / "photos")


# ---- the property ------------------------------------------------------------------------------------
json_labels = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 80)
    | st.floats()
    | st.sampled_from(["cat", "dog", "0", "7", "", "x"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["class", "box", "point", "cat", "dog", "a", "b"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)
pixels = st.integers(0, 2**16 - 1).flatmap(
    lambda most: st.builds(
        lambda seed, shape, kind: encoded(
            np.random.RandomState(seed).randint(0, most % np.iinfo(kind).max + 1, shape).astype(kind)
        ),
        st.integers(0, 999),
        st.sampled_from([SIZE, (5, 8)]),
        st.sampled_from([np.uint8, np.uint16]),
    )
)
arrays = st.builds(
    lambda seed, shape, scale: array((scale * np.random.RandomState(seed).randn(*shape)).astype(np.float32)),
    st.integers(0, 999),
    st.sampled_from([SIZE, (*SIZE, 3), (6, 8, 2)]),
    st.sampled_from([1.0, 1e-30, float("nan"), float("inf")]),
)
payloads = (
    json_labels.map(lambda value: json.dumps(value).encode())
    | st.sampled_from([b"cat", b"7", b"007", b" dog ", b"\xff", b""])
    | pixels
    | arrays
)


@pytest.mark.parametrize("member", sorted(kinds_by_member()))
@settings(max_examples=25, deadline=None)
@given(labels=st.lists(payloads, min_size=1, max_size=3), names=st.booleans())
def test_what_shards_takes_training_takes_with_the_same_counts(
    member: str, labels: list[bytes], names: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    kind = KINDS[kinds_by_member()[member][0]]
    asked = None if kind.fixed_classes or (kind.open_classes and not names) else ("cat", "dog")
    rows, folder = OwnRows(member, labels, asked), tmp_path_factory.mktemp("s")
    try:
        written = write_shards(rows, folder / "s", workers=0)
    except ShardError:
        return
    recipe = load_lines(recipe_lines(written), folder / "recipe.yaml")
    if asked is None and kind.open_classes and recipe.tasks["task"].classes == 1:
        return  # one class is no task; the summary says so
    read = labels_by_key(recipe, "task")
    assert len(read) == len(labels)
    counts = LabelCounts()
    for label in read.values():
        counts.add_label(rows.labels[0].kind, label, SIZE)
    assert counts.counts == written.counts.labels[member].counts
    assert (counts.rows, counts.labelled) == (
        written.counts.labels[member].rows,
        written.counts.labels[member].labelled,
    )
