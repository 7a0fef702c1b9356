import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from PIL import Image
from prediction_world import KINDS, lines, picture, png, shard, student_folder

from distill_mtl.cli import main
from distill_mtl.files import atomic_file
from distill_mtl.prediction.outputs import in_words


def predict(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["predict", *(str(each) for each in arguments), "--device", "cpu"])
    return int(ended.value.code or 0)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder, as far as predictions need one."""
    student_folder(tmp_path / "run" / "student")
    return tmp_path / "run"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, name in enumerate(("a/one.png", "b/two.jpg", "three.webp")):
        picture(tmp_path / "photos" / name, number)
    return tmp_path / "photos"


def test_a_mask_that_its_kind_would_not_read_is_not_written(
    run: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(type(KINDS["part"]), "write_label", lambda self, decoded: ("seg.png", b"no picture"))
    assert predict(run, photos, "--masks", tmp_path / "masks", "--only", "part") == 2
    assert re.search(r"--masks: .*one\.png, part: .*segmentation", capsys.readouterr().err)
    assert not list((tmp_path / "masks").rglob("*.png"))


def test_in_a_pipe_every_picture_is_a_line_of_json_in_order(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(run, photos, "--top", 2) == 0
    found = lines(capsys.readouterr().out)
    assert [line["key"] for line in found] == ["a/one.png", "b/two.jpg", "three.webp"]
    for line in found:
        assert line["size"] == [12, 20]
        assert set(line["tasks"]) == set(KINDS)
        assert line["tasks"]["breed"]["label"] in ("cat", "dog", "owl")
        assert line["tasks"]["breed"]["top"][0]["label"] == line["tasks"]["breed"]["label"]
        assert set(line["tasks"]["pose"]["values"]) == {"yaw", "pitch"}
        assert sum(line["tasks"]["part"]["pixels"].values()) == pytest.approx(1)


def test_several_classes_of_one_answer_have_their_confidence_in_brackets() -> None:
    top = [{"label": "7", "probability": 0.912}, {"label": "3", "probability": 0.05}]
    assert in_words({"top": top}) == "7 (91 %), 3 (5 %)"


def test_run_folder_and_student_folder_are_the_same_network(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict(run, photos)
    first = capsys.readouterr().out
    predict(run / "student", photos)
    assert capsys.readouterr().out == first


def test_on_a_terminal_the_answers_are_a_table(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    assert predict(run, photos, "--only", "breed,part,pose") == 0
    text = capsys.readouterr().out
    assert "image" in text
    assert "a/one.png" in text
    assert "%" in text
    assert "yaw" in text
    assert not text.startswith("{")


def test_masks_are_labels_that_the_kinds_read_and_pairs_can_be_made_of(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = tmp_path / "masks"
    assert predict(run, photos, "--masks", masks) == 0
    assert capsys.readouterr().out == ""
    assert sorted(path.name for path in masks.iterdir()) == ["facing", "far", "part", "things"]
    for task, file in (
        ("part", "one.png"),
        ("far", "one.npy"),
        ("facing", "one.png"),
        ("things", "one.json"),
    ):
        label = KINDS[task].read_label((masks / task / "a" / file).read_bytes())
        assert KINDS[task].label_size(label) in ((12, 20), None)
    assert set(np.unique(np.asarray(Image.open(masks / "part" / "three.png")))) <= {0, 1}
    with pytest.raises(SystemExit) as ended:
        main(["shards", "pairs", str(photos), str(masks / "part"), "--to", str(tmp_path / "shards")])
    assert not ended.value.code
    assert "3 rows" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_half_written_and_says_so_in_one_line(
    run: Path,
    photos: Path,
    tmp_path: Path,
    number: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    @contextmanager
    def stopped(path: Path) -> Iterator[BinaryIO]:
        with atomic_file(path) as file:
            if "two" in path.name:
                file.write(b"half of it")
                os.kill(os.getpid(), number)
            yield file

    monkeypatch.setattr("distill_mtl.prediction.outputs.atomic_file", stopped)
    masks, out, before = tmp_path / "masks", tmp_path / "a.jsonl", signal.getsignal(signal.SIGTERM)
    assert predict(run, photos, "--masks", masks, "--json", out, "--only", "part") == 130
    assert [path.name for path in masks.rglob("*.*")] == ["one.png"]
    assert not list(tmp_path.glob("a.jsonl*"))
    assert capsys.readouterr().err.count("\n") == 1
    assert signal.getsignal(signal.SIGTERM) == before


def test_overlays_are_pictures_with_a_legend_below(run: Path, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "overlays"
    assert predict(run, photos, "--overlays", folder, "--only", "part,things,breed") == 0
    assert sorted(path.name for path in folder.iterdir()) == ["part", "things"]
    seen = Image.open(folder / "part" / "b" / "two.png")
    assert seen.width == 260
    assert seen.height > 156  # the picture's twelve rows, thirteen times, and the legend


def test_overlays_show_all_of_a_cropped_picture_dark_where_it_was_not_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, white = student_folder(tmp_path / "student", resize="crop"), tmp_path / "white.png"
    Image.new("RGB", (301, 17), "white").save(white)
    assert predict(folder, white, "--overlays", tmp_path / "crop", "--only", "part") == 0
    said = capsys.readouterr().err
    assert said.startswith("1 picture was cropped")
    assert "--resize squash" in said
    seen = np.asarray(Image.open(tmp_path / "crop" / "part" / "white.png"))[:17]
    assert seen.shape == (17, 301, 3)
    assert (seen[:, :142] == 89).all()  # 0.35 of white, on both sides of the 17 columns in the middle
    assert (seen[:, 159:] == 89).all()
    assert (seen[:, 142:159] != 89).any(axis=(0, 2)).all()
    for resize in ("pad", "squash"):
        assert (
            predict(folder, white, "--overlays", tmp_path / resize, "--only", "part", "--resize", resize) == 0
        )
        assert "cropped" not in capsys.readouterr().err
        seen = np.asarray(Image.open(tmp_path / resize / "part" / "white.png"))[:17]
        assert seen.shape == (17, 301, 3)
        assert not (seen == 89).all(axis=2).any()


def test_a_corrupt_image_is_named_counted_and_ends_with_status_2(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "b" / "bad.jpg").write_bytes(b"\xff\xd8\xff cut")
    out = tmp_path / "answers.jsonl"
    assert predict(run, photos, "--json", out, "--masks", tmp_path / "masks") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "bad.jpg: the picture cannot be decoded" in said.err
    assert "1 of 4 images could not be read: b/bad.jpg" in said.err
    found = lines(out.read_text())
    assert [("error" in line, "tasks" in line) for line in found] == [
        (False, True),
        (True, False),
        (False, True),
        (False, True),
    ]
    assert len(list((tmp_path / "masks" / "part").rglob("*.png"))) == 3


def test_files_that_are_no_pictures_are_counted(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "notes.txt").write_text("no picture")
    assert predict(run, photos) == 0
    assert "left out: 1 files that are not pictures (.txt)" in capsys.readouterr().err


def test_shards_are_answered_by_their_keys_and_their_labels_ignored(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard(tmp_path / "pets" / "p-0.tar", {"b": png(1), "a": png(2), "none": None})
    assert (
        predict(run, tmp_path / "pets", "--only", "breed", "--masks", tmp_path / "m") == 2
    )  # no map: refused
    capsys.readouterr()
    assert predict(run, tmp_path / "pets", "--json", "-") == 2
    found = lines(capsys.readouterr().out)
    assert [line["key"] for line in found] == ["pets/p-0/b", "pets/p-0/a", "pets/p-0/none"]
    assert "no picture" in found[2]["error"]


def test_a_key_that_leads_out_of_the_folder_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard(tmp_path / "pets" / "p.tar", {"../../../evil": png(0)})
    assert predict(run, tmp_path / "pets", "--masks", tmp_path / "deep" / "masks") == 2
    assert "out of the folder" in capsys.readouterr().err
    assert not list(tmp_path.rglob("evil*"))


def test_two_pictures_never_share_a_file(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(photos / "three.png", 4)
    assert predict(run, photos, "--masks", tmp_path / "masks") == 2
    assert "would be written to one file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "bread"], "has no task 'bread'. Did you mean 'breed'?"),
        (["--masks", "PHOTOS"], "is not an empty folder"),
        (["--device", "cuda:99"], "--device cuda:99 cannot be used here"),
        (["--json", "/dev/null/answers.jsonl"], "cannot be written"),
    ],
)
def test_a_mistake_is_one_clear_line(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    given = [str(photos) if each == "PHOTOS" else each for each in arguments]
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(run), str(photos), *given])
    assert ended.value.code == 2
    text = capsys.readouterr().err
    assert said in text
    assert "Traceback" not in text


def test_answers_go_to_no_folder_and_that_is_said_before_the_work(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(tmp_path / "no-run-is-opened", photos, "--json", photos) == 2
    said = capsys.readouterr().err
    assert said == f"--json {photos} is a folder. Name a file, such as --json {photos}/FILE.\n"


def test_what_is_no_network_is_refused(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(tmp_path / "absent", photos) == 2
    assert "there is no such folder" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps({"hidden_size": 768}))
    assert predict(tmp_path / "other", photos) == 2
    assert "other/config.json" in capsys.readouterr().err


def test_programs_need_trust(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.jit.trace(torch.nn.ReLU(), torch.zeros(1)).save(str(tmp_path / "net.ts"))
    assert predict(tmp_path / "net.ts", photos) == 2
    assert "--trust" in capsys.readouterr().err
    assert predict(tmp_path / "net.ts", photos, "--trust") == 2
    assert "input: {size: ...}" in capsys.readouterr().err
