"""`distill-mtl shards` as people type it, and real data through it."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from people_data import animals, digests, labels_by_key, load_lines, members, save_mask, save_picture
from PIL import Image
from real_data import real_data

from distill_mtl.cli import main
from distill_mtl.errors import ShardError
from distill_mtl.jobs.shards import shards_from_folder


def test_the_lines_it_prints_are_a_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    animals(tmp_path / "photos", 12)
    said = shards("folder", "photos", "--to", "shards/breed", "--rows", "5", "--workers", "0", capsys=capsys)
    assert "shards/breed: 3 shards, 12 rows" in said
    assert "pictures: all of 8x6 pixels" in said
    recipe = load_lines(said.partition("in a recipe:")[2], tmp_path / "recipe.yaml")
    assert recipe.data["breed"].shards == str(tmp_path / "shards/breed/breed-{000000..000002}.tar")
    assert set(map(int, labels_by_key(recipe, "breed").values())) == {0, 1, 2}


def test_classes_are_counted_and_long_lists_show_their_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(25):
        for copy in range(1 + (number == 24)):
            save_picture(tmp_path / "photos" / f"kind{number:02d}" / f"{copy}.png", number)
    said = shards("folder", str(tmp_path / "photos"), "--to", str(tmp_path / "s"), capsys=capsys)
    table = said[said.index("25 classes") : said.index("in a recipe")].splitlines()
    assert table[4].split() == ["kind24", "2"]
    assert table[5].split() == ["kind00", "1"]
    assert any("… 5 more" in line for line in table)


def test_values_are_told_with_what_standardises_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["image,age"]
    for number in range(4):
        save_picture(tmp_path / f"{number}.png", number, height=6 + number)
        lines.append(f"{number}.png,{20 + 10 * number}")
    (tmp_path / "t.csv").write_text("\n".join([*lines, "0.png,"]))
    arguments = ["table", str(tmp_path / "t.csv"), "--label", "values.json=age", "--to", str(tmp_path / "s")]
    with pytest.raises(SystemExit) as exit:
        main(["shards", *arguments])
    assert exit.value.code == 2
    assert "line 6: no values.json (age)" in capsys.readouterr().err
    said = shards(*arguments, "--allow-missing", capsys=capsys)
    assert "left out: 1 rows that lack a label" in said
    assert "pictures: 8x6 to 8x9 pixels (width x height), median 8x7" in said
    assert "offset: 35.0\n      scale: 11.1803" in said


def test_test_shards_are_pasted_into_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_picture(tmp_path / "img" / "a.png", 0)
    save_mask(tmp_path / "ids" / "a.png", 0)
    said = shards(
        *("pairs", str(tmp_path / "img"), str(tmp_path / "ids")),
        *("--to", str(tmp_path / "road"), "--name", "test", "--workers", "0"),
        capsys=capsys,
    )
    assert f"    data:\n      split:\n        test: {tmp_path}/road/test-000000.tar" in said


def test_a_folder_called_test_names_a_second_set_beside_the_first(tmp_path: Path) -> None:
    for split in ("train", "test"):
        with pytest.raises(SystemExit) as ended:
            main(["shards", "folder", str(animals(tmp_path / split, 12)), "--to", str(tmp_path / "pets")])
        assert not ended.value.code
    assert sorted(path.name for path in (tmp_path / "pets").glob("*.tar")) == [
        "pets-000000.tar",
        "test-000000.tar",
    ]
    with pytest.raises(ShardError, match="a second set of the same data: --name test"):
        shards_from_folder(animals(tmp_path / "more", 20), to=tmp_path / "pets")


def test_boxes_that_leave_their_pictures_are_doubted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = []
    for number, box in enumerate([[1, 1, 8, 6], [0, 0, 8, 6], [4, 3, 8, 6]]):  # the last is one of corners
        save_picture(tmp_path / f"{number}.png", number)
        lines.append(json.dumps({"image": f"{number}.png", "things": [{"class": "hand", "box": box}]}))
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    said = shards(
        *("table", str(tmp_path / "t.jsonl"), "--label", "boxes.json=things"),
        *("--to", str(tmp_path / "s"), "--workers", "0"),
        capsys=capsys,
    )
    assert "1 of 3 boxes reach beyond their picture" in said
    assert "[left, top, right, bottom]" in said


@pytest.mark.parametrize(("age", "hinted"), [("", True), ("old", False)])
def test_leaving_rows_out_is_offered_where_a_label_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], age: str, hinted: bool
) -> None:
    save_picture(tmp_path / "0.png", 0)
    (tmp_path / "t.csv").write_text(f"image,age\n0.png,{age}\n")
    with pytest.raises(SystemExit):
        main(["shards", "table", str(tmp_path / "t.csv"), "--label", "values.json=age", "--to", "s"])
    assert ("--allow-missing" in capsys.readouterr().err) == hinted


def test_one_mistake_in_many_rows_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(5):
        save_picture(tmp_path / "img" / f"{number}.png", number)
        save_picture(tmp_path / "d" / f"{number}.png", number)
    options = ["--member", "depth.png", "--to", str(tmp_path / "s"), "--workers", "0", "--no-shuffle"]
    with pytest.raises(SystemExit):
        main(["shards", "pairs", str(tmp_path / "img"), str(tmp_path / "d"), *options])
    error = capsys.readouterr().err
    assert error.startswith("5 rows cannot be written:")
    assert error.count("mode RGB") == 1
    assert "img/2.png and 2 more: depth.png" in error


def test_depth_written_as_masks_is_doubted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_picture(tmp_path / "img" / "a.png", 0)
    (tmp_path / "d").mkdir()
    Image.fromarray(np.arange(400, 448, dtype=np.uint16).reshape(6, 8)).save(tmp_path / "d" / "a.png")
    said = shards(
        *("pairs", str(tmp_path / "img"), str(tmp_path / "d"), "--to", str(tmp_path / "s"), "--workers", "0"),
        capsys=capsys,
    )
    assert "masks hold 48 numbers up to 447. Are they depth maps" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["table", "t.csv", "--label", "breed", "--to", "s"],
        ["folder", "photos", "--take", "half", "--to", "s"],
        ["torchvision", "MNIST", "--args", "train", "--to", "s"],
    ],
)
def test_an_argument_without_its_form_is_a_message(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["shards", *arguments])
    assert exit.value.code == 2
    assert "expected" in capsys.readouterr().err


def test_a_command_stopped_by_ctrl_c_goes_on(tmp_path: Path) -> None:
    """The real signal, with reader processes: the whole process group gets it, as from a terminal."""
    folder = tmp_path / "photos"
    for number in range(40):
        save_picture(folder / f"{number:02d}.png", number)
    # A picture that nobody writes yet: its reader waits, so the command surely is not finished.
    os.mkfifo(folder / "39-slow.png")
    options = ["--rows", "4", "--no-shuffle", "--workers", "1", "--to", str(tmp_path / "s")]
    command = [sys.executable, "-m", "distill_mtl.cli", "shards", "folder", str(folder), *options]
    running = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Where the tests run in the background of a shell, Ctrl-C is ignored, and children inherit that.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    assert running.stderr is not None
    while not (tmp_path / "s" / "s-000007.tar").exists():
        assert running.poll() is None
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGINT)
    error = running.stderr.readline()
    while running.poll() is None:  # let the reader end
        with suppress(OSError):
            os.close(os.open(folder / "39-slow.png", os.O_WRONLY | os.O_NONBLOCK))
        time.sleep(0.02)
    error += running.communicate(timeout=60)[1]
    assert running.returncode == 130
    assert "the same command" in error
    assert "Traceback" not in error
    assert len(digests(tmp_path / "s")) >= 8
    assert not list((tmp_path / "s").glob("*.part"))


# ---- real data --------------------------------------------------------------------------------------
def test_mnist_comes_back_from_its_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, raw = real_data("mnist"), tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in folder.glob("*.gz"):
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    said = shards(
        *(
            "torchvision",
            "MNIST",
            "--root",
            str(tmp_path / "data"),
            "--args",
            "train=false",
            "--take",
            ":300",
        ),
        *("--to", str(tmp_path / "mnist"), "--name", "test"),
        capsys=capsys,
    )
    assert "300 rows" in said
    images = np.frombuffer((raw / "t10k-images-idx3-ubyte").read_bytes(), np.uint8, offset=16).reshape(
        -1, 28, 28
    )
    labels = np.frombuffer((raw / "t10k-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
    stored = members([tmp_path / "mnist" / "test-000000.tar"])
    assert len(stored) == 300
    for key, row in stored.items():
        number = int(key.removeprefix("mnist-"))
        assert int(row["cls"]) == labels[number]
        assert np.array_equal(np.asarray(_picture(row["png"], tmp_path)), images[number])


def test_camvid_comes_back_from_its_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = real_data("camvid") / "val"
    said = shards(
        *("pairs", str(folder / "images"), str(folder / "masks"), "--ignore-index", "11"),
        *("--to", str(tmp_path / "camvid"), "--rows", "60"),
        capsys=capsys,
    )
    assert "2 shards, 101 rows" in said
    recipe = load_lines(said.partition("in a recipe:")[2], tmp_path / "recipe.yaml")
    assert recipe.tasks["camvid"].classes == 11
    labels, stored = labels_by_key(recipe, "camvid"), members(sorted((tmp_path / "camvid").glob("*.tar")))
    assert len(labels) == 101
    for key, label in labels.items():
        assert stored[key]["jpg"] == (folder / "images" / f"{key}.jpg").read_bytes()
        assert np.array_equal(label.numpy(), np.asarray(Image.open(folder / "masks" / f"{key}.png")))


def shards(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What `distill-mtl shards` prints."""
    with pytest.raises(SystemExit) as exit:
        main(["shards", *arguments])
    said = capsys.readouterr()
    assert exit.value.code == 0, said.err
    return said.out


def _picture(encoded: bytes, folder: Path) -> Image.Image:
    (folder / "one.png").write_bytes(encoded)
    return Image.open(folder / "one.png")
