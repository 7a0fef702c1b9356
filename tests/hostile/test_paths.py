"""Folders, names and files as a disk really holds them: what is no data is never read, and nothing is waited for."""

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from distill_mtl.data.shard_files import MOST_SHARDS, expand_braces, find_shards
from distill_mtl.data.shard_sets import find_sets
from distill_mtl.data.walk import walk_shard
from distill_mtl.errors import UserError
from distill_mtl.export.export_format import find_student
from distill_mtl.folders import is_hidden, walk_folder
from distill_mtl.jobs.evaluate import evaluate
from distill_mtl.jobs.report import write_report
from distill_mtl.networks.opening import open_network
from distill_mtl.prediction.named_pictures import find_pictures
from distill_mtl.reading import MAX_DEPTH, loads, read_text
from distill_mtl.recipe.load import load_recipe
from distill_mtl.shards.image_folders import folder_rows
from distill_mtl.shards.tables import table_rows


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Three cats and three dogs."""
    for name in ("cat", "dog"):
        for number in range(3):
            picture(tmp_path / "pets" / name / f"{number}.png")
    return tmp_path / "pets"


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2)).save(path)


def link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


LITTER: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "a link to the folder itself": ("cat/loop", link("../"), "links to folders"),
    "a link to a folder above": ("cat/loop", link("../../.."), "links to folders"),
    "a link to another class, first by name": ("a", link("dog"), "links to folders"),
    "a link to itself": ("cat/loop", link("loop"), "links that lead nowhere"),
    "a link to nothing": ("cat/9.png", link("absent.png"), "links that lead nowhere"),
    "a FIFO": ("cat/9.png", lambda path: os.mkfifo(path), "links that lead nowhere"),
    "a device": ("cat/9.png", link("/dev/zero"), "links that lead nowhere"),
    "a notebook's copies": (".ipynb_checkpoints/0-checkpoint.png", picture, "hidden"),
    "thumbnails": ("cat/.thumbnails/0.png", picture, "hidden"),
    "a file server's": ("@eaDir/0.png", picture, "hidden"),
    "a Mac's archive": ("__MACOSX/cat/._0.png", picture, "hidden"),
    "a Mac's other half": ("cat/._0.png", picture, "hidden"),
    "a Mac's folder": ("cat/.DS_Store", Path.touch, "hidden"),
    "Windows' thumbnails": ("cat/Thumbs.db", Path.touch, "hidden"),
    "a bin": ("$RECYCLE.BIN/0.png", picture, "hidden"),
}


@pytest.mark.parametrize("case", LITTER)
def test_a_folder_holds_each_picture_once_whatever_else_lies_there(case: str, pets: Path) -> None:
    name, make, counted = LITTER[case]
    (pets / name).parent.mkdir(parents=True, exist_ok=True)
    make(pets / name)
    rows = folder_rows(pets)
    assert [rows.key(number) for number in range(len(rows))] == [
        f"{name}-{number}" for name in ("cat", "dog") for number in range(3)
    ]
    assert rows.labels[0].classes == ("cat", "dog")
    assert [count for what, count in rows.left_out.items() if what.startswith(counted)] == [1]
    found = find_pictures([str(pets)])
    assert (len(found.pictures), found.left_out) == (6, rows.left_out)


def test_links_to_folders_elsewhere_are_read(tmp_path: Path, pets: Path) -> None:
    (tmp_path / "view").mkdir()
    (tmp_path / "view" / "cats").symlink_to(pets / "cat")
    (tmp_path / "view" / "again").symlink_to(tmp_path / "view")
    assert walk_folder(tmp_path / "view").files == ["cats/0.png", "cats/1.png", "cats/2.png"]


def test_a_folder_may_itself_have_a_hidden_name(tmp_path: Path) -> None:
    picture(tmp_path / ".cache" / "cat" / "0.png")
    assert len(folder_rows(tmp_path / ".cache")) == 1


@pytest.mark.parametrize(
    ("names", "hidden"),
    [
        (("./a.png", "../a.png", "a/b.c/d.png", "__macosx_like/a.png"), False),
        (("a/.b.png", ".a/b.png", "..png", "x/__MACOSX/a", "x/thumbs.db"), True),
    ],
)
def test_hidden_names(names: tuple[str, ...], hidden: bool) -> None:
    assert [is_hidden(name) for name in names] == [hidden] * len(names)


def test_hidden_members_of_a_shard_are_no_rows(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in (
            *("./train/x.png", "./train/x.cls", "train/._x.png", "train/.DS_Store", "__MACOSX/train/x.png"),
            *("train/.ipynb_checkpoints/x.png", "train/y.png"),
        ):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    assert [row.key for row in walk_shard(tmp_path / "a.tar")] == ["./train/x", "train/y"]


def test_shards_in_hidden_folders_are_not_found(tmp_path: Path) -> None:
    for name in ("a.tar", ".trash/b.tar", "@eaDir/c.tar", "sub/d.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    assert find_sets([str(tmp_path)])["train"] == [str(tmp_path / "a.tar"), str(tmp_path / "sub" / "d.tar")]


PATTERNS = {
    "a billion": "/x/{0..999999999}.tar",
    "downward": "/x/{999999999..0}.tar",
    "more than an integer holds": f"/x/{{0..{'9' * 100}}}.tar",
    "a product": "/x/{0..9999}{0..9999}.tar",
    "many braces": "/x/" + "{a,b}" * 200,
    "deep": "{a," * 3000 + "}" * 3000,
    "one brace": "/x/{0..9.tar",
    "a command": "pipe:rm -r /",
}


@pytest.mark.parametrize("case", PATTERNS)
def test_a_pattern_is_counted_before_it_is_expanded(case: str) -> None:
    with pytest.raises(UserError, match=r"data\.x\.shards"):
        expand_braces(PATTERNS[case], "data.x.shards")


def test_a_pattern_of_many_shards_is_expanded() -> None:
    assert len(expand_braces(f"/x/{{0..{MOST_SHARDS - 1}}}.tar", "data")) == MOST_SHARDS


@pytest.mark.parametrize(
    "url",
    [
        "zip://*.tar::/etc/a.zip",
        "simplecache::s3://b/a.tar",
        "dir://etc",
        "local:///etc/passwd",
        "reference://x",
        "github://a:b@c/d.tar",
        "https://host/a.tar::memory://x",
        "file::/etc/passwd",
        "nonsense://a.tar",
    ],
)
def test_only_plain_stores_are_fetched_from(url: str) -> None:
    with pytest.raises(UserError, match="is not read"):
        find_shards(url, "data.x.shards")


SPECIAL: dict[str, Callable[[Path], Path]] = {
    "a FIFO": lambda place: (os.mkfifo(place / "fifo"), place / "fifo")[1],
    "a device that never ends": lambda place: Path("/dev/zero"),
    "a folder": lambda place: place,
    "a link to itself": lambda place: ((place / "loop").symlink_to("loop"), place / "loop")[1],
    "a link to a device": lambda place: ((place / "zero").symlink_to("/dev/zero"), place / "zero")[1],
    "nothing": lambda place: place / "absent",
    "a name with a NUL": lambda place: place / "a\0b",
    "a name of 5,000 letters": lambda place: place / ("a" * 5000),
}


@pytest.mark.parametrize("case", SPECIAL)
@pytest.mark.parametrize(
    "read",
    [
        read_text,
        load_recipe,
        lambda path: find_shards(str(path), "data"),
        lambda path: table_rows(_named(path, ".csv"), {"cls": ["label"]}),
        lambda path: folder_rows(path),
    ],
    ids=["text", "recipe", "shards", "table", "folder"],
)
@pytest.mark.timeout(20)
def test_only_regular_files_are_opened(case: str, read: Callable[[Path], object], tmp_path: Path) -> None:
    place = SPECIAL[case](tmp_path)
    with pytest.raises(UserError):
        read(place)


def _named(path: Path, ending: str) -> Path:
    """A link to the path whose name ends so; the path itself where no link can be made to it."""
    try:
        named = path.parent / f"a{ending}"
        named.symlink_to(path)
        return named
    except (OSError, ValueError):
        return path.with_name(path.name + ending)


@pytest.mark.timeout(20)
def test_a_table_that_names_a_fifo_does_not_wait_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text("image,label\na.png,cat\n")
    rows = table_rows(tmp_path / "t.csv", {"cls": ["label"]})
    with pytest.raises(OSError, match="not a regular file"):
        rows.read(0)


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"x" * 101)
    with pytest.raises(UserError, match=r"a\.txt cannot be read: it has 101 bytes; at most 100"):
        read_text(tmp_path / "a.txt", 100)
    assert read_text(tmp_path / "a.txt", 101) == "x" * 101


@pytest.mark.parametrize(
    "text", ["[" * 900 + "]" * 900, '{"a":' * 900 + "1" + "}" * 900, "[" * 1_000_000, "9" * 5000]
)
def test_json_is_bounded_before_it_is_read(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        loads(text)


def test_brackets_in_a_text_are_no_depth() -> None:
    value = ["[" * 900 + '"', {"a": "]}{"}]
    assert loads(json.dumps(value)) == value
    nested: object = 1
    for _ in range(MAX_DEPTH):
        nested = [nested]
    assert loads(json.dumps(nested)) == nested


RECIPES = {
    "brackets": "tasks: " + "[" * 900 + "]" * 900,
    "a hundred thousand brackets": "tasks: " + "[" * 100_000,
    "indents": "\n".join("  " * depth + "a:" for depth in range(300)),
    "dashes": "tasks:\n" + "- " * 3000 + "x",
    "aliases that multiply": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "\n".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]" for i in range(12)),
    "merges that multiply": "a: &a {x: 1}\n"
    + "\n".join(f"b{i}: &{chr(98 + i)} {{<<: [*{chr(97 + i)}, *{chr(97 + i)}], y{i}: 1}}" for i in range(22)),
    "aliases that nest": "a: &a0 [x]\n" + "\n".join(f"b{i}: &a{i + 1} [*a{i}]" for i in range(900)),
    "an alias to itself": "a: &a [*a]",
    "a long number": "seed: " + "9" * 5000,
}


@pytest.mark.parametrize("case", RECIPES)
@pytest.mark.timeout(20)
def test_a_recipe_is_bounded_before_it_is_built(case: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPES[case])
    with pytest.raises(UserError, match=r"r\.yaml, line \d"):
        load_recipe(tmp_path / "r.yaml")


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b"])
@pytest.mark.parametrize(
    "read",
    [
        lambda name: write_report([Path(name)]),
        lambda name: evaluate(Path(name)),
        lambda name: find_student(Path(name)),
        lambda name: open_network(name),
        lambda name: open_network(f"{name}.onnx"),
        lambda name: find_pictures([name]),
    ],
    ids=["report", "evaluate", "export", "network", "file", "pictures"],
)
def test_a_name_that_no_file_can_have_is_refused(read: Callable[[str], object], name: str) -> None:
    with pytest.raises(UserError):
        read(name)


def test_weights_of_an_onnx_file_lie_beside_it(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    for place in ("/etc/passwd", "../a.data", "a/../../b"):
        weights = onnx.TensorProto(name="w", data_location=onnx.TensorProto.EXTERNAL)
        weights.external_data.add(key="location", value=place)
        node = onnx.helper.make_node("Identity", ["w"], ["y"])
        graph = onnx.helper.make_graph([node], "g", [], [], [weights])
        onnx.save(onnx.helper.make_model(graph), tmp_path / "a.onnx")
        with pytest.raises(UserError, match="lie beside it"):
            open_network(tmp_path / "a.onnx")
