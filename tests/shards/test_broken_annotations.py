"""Annotations that somebody cut, changed or made up: they are read, or refused in one message."""

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from annotated_data import LINES, coco, voc, yolo
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distill_mtl.cli import main
from distill_mtl.errors import UserError
from distill_mtl.shards import coco_sets, voc_sets, write_shards, yolo_sets

Sets = Callable[[Path], Any]
OTHERS = st.one_of(
    st.sampled_from(
        [None, True, [], {}, "", "x", "../..", "\0", "\ud800", -1, 0, 2**80, 1e308, float("nan"), [[[]]]]
    ),
    st.integers(-9, 300),
    st.floats(),
    st.text(max_size=4),
    st.lists(st.floats(-9, 99), max_size=7),
    st.dictionaries(
        st.sampled_from(["size", "counts", "id"]), st.lists(st.integers(-1, 9), max_size=3), max_size=2
    ),
)
quick = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of each form."""
    folder = tmp_path_factory.mktemp("world")
    coco(folder / "coco")
    yolo(folder / "yolo")
    voc(folder / "voc")
    return folder


def survives(list_sets: Sets, to: Path) -> None:
    """What is refused says so to the user, and leaves no shard."""
    shutil.rmtree(to, ignore_errors=True)
    try:
        for name, rows in list_sets(to).items():
            write_shards(rows, to, name=name or "all", workers=0)
    except UserError:
        written = list(to.glob("*.tar"))
        assert not written, "a row is refused before a shard is written"


def mutated(content: Any, draw: Any) -> Any:
    """A copy in which one value is another, a key is missing, or a list is longer or shorter."""
    content = copy.deepcopy(content)
    places = list(_places(content))
    parent, key = draw(st.sampled_from(places))
    how = draw(st.sampled_from(["other", "missing", "twice"]))
    if how == "missing":
        del parent[key]
    elif how == "twice" and isinstance(parent, list):
        parent.append(copy.deepcopy(parent[key]))
    else:
        parent[key] = draw(OTHERS)
    return content


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


@pytest.mark.parametrize("label", ["boxes", "masks", "points"])
@quick
@given(data=st.data())
def test_changed_coco_files(world: Path, label: Any, data: st.DataObject) -> None:
    file = world / "coco" / "annotations" / "changed.json"
    original = json.loads((file.parent / "instances_train2017.json").read_text())
    original["categories"][0]["keypoints"] = ["left", "right"]
    original["annotations"][4] |= {"category_id": 7, "keypoints": [1, 2, 2, 3, 4, 1]}
    file.write_text(json.dumps(mutated(original, data.draw)))
    survives(lambda _: coco_sets(file, label=label), world / "out")


@pytest.mark.parametrize(
    "part", ["coco/annotations/instances_train2017.json", "yolo/data.yaml", "voc/Annotations/2007_000027.xml"]
)
@quick
@given(data=st.data())
def test_cut_and_stained_files(world: Path, part: str, data: st.DataObject) -> None:
    """Some bytes are others, or everything behind a place is missing."""
    file = world / part
    content = file.read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    stain = data.draw(st.binary(max_size=6))
    stained = content[:at] + stain + (b"" if data.draw(st.booleans()) else content[at + len(stain) :])
    read: Sets = {
        "coco": lambda _: coco_sets(file, label="masks"),
        "yolo": lambda _: yolo_sets(file),
        "voc": lambda _: voc_sets(world / "voc"),
    }[part.partition("/")[0]]
    try:
        file.write_bytes(stained)
        survives(read, world / "out")
    finally:
        file.write_bytes(content)


@quick
@given(data=st.data())
def test_changed_data_files_of_yolo(world: Path, data: st.DataObject) -> None:
    original = yaml.safe_load((world / "yolo" / "data.yaml").read_text()) | {
        "val": ["images/train"],
        "path": ".",
    }
    file = world / "yolo" / "changed.yaml"
    file.write_text(
        yaml.safe_dump(mutated(original, data.draw), allow_unicode=True), errors="surrogateescape"
    )
    survives(lambda _: yolo_sets(file), world / "out")


words = st.one_of(
    st.sampled_from(["0", "1", "2", ".5", "0.1", "1e999", "-0", "nan", "0x1", "1_0", "٣"]),
    st.text(max_size=3),
)


@pytest.mark.parametrize("label", ["boxes", "masks"])
@quick
@given(lines=st.lists(st.lists(words, max_size=9).map(" ".join), max_size=3))
def test_lines_of_yolo_that_are_made_up(world: Path, label: Any, lines: list[str]) -> None:
    file = world / "yolo" / "labels" / "train" / "a.txt"
    try:
        file.write_text("\n".join(lines), errors="replace")
        survives(lambda _: yolo_sets(world / "yolo", label=label), world / "out")
    finally:
        file.write_text(LINES["a"])


@pytest.mark.parametrize(
    "command",
    [
        "coco FOLDER/coco/deep.json",
        "coco FOLDER/coco/list.json",
        "coco FOLDER/coco/twice.json",
        "coco FOLDER/nowhere",
        "yolo FOLDER/coco",
        "voc FOLDER/yolo",
        "hf FOLDER/coco/deep.json",
        "hf ./nowhere",
    ],
)
def test_a_command_ends_with_one_message(
    world: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (world / "coco" / "deep.json").write_text('{"images": ' + "[" * 100_000)
    (world / "coco" / "list.json").write_text("[]")
    (world / "coco" / "twice.json").write_text('{"images": [], "images": []}')
    with pytest.raises(SystemExit) as ended:
        main(["shards", *command.replace("FOLDER", str(world)).split(), "--to", str(world / "never")])
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip()
    assert said
    assert "Traceback" not in said
    assert not (world / "never").exists()
