"""`distill-mtl cache` and `cache verify` as a user's own processes run them, stopped and killed among others."""

import json
import re
import shutil
import signal
import subprocess
import time
from collections import namedtuple
from pathlib import Path

import cache_world
import children
import forked
import numpy as np
import pytest
import toy_world
import toys
from safetensors import safe_open
from safetensors.numpy import load_file

from distill_mtl.cli import main
from distill_mtl.errors import CacheError, RecipeError, Stopped, TeacherError
from distill_mtl.files import cache_folder
from distill_mtl.jobs import cache as cache_module
from distill_mtl.jobs.cache import verify_cache, write_cache
from distill_mtl.targets import plan as plan_module

SLOW = "evaluation.batch_size=1"  # a row at a time leaves time to stop it
FILES = 8  # four shards, two teachers


def contents(recipe: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in cache_world.sidecars(recipe.parent)}


# ---- what it says -----------------------------------------------------------------------------------
def test_the_size_is_told_before_and_the_pace_after(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = cache_world.cached(tmp_path / "world", "targets.views=3")
    said = capsys.readouterr().out
    size = sum(len(content) for content in contents(recipe).values())
    assert re.search(r"2 teachers × 160 rows × 3 views: \d+ kB, about 1 second", said)
    told = float(re.search(r"views: (\d+) kB", said)[1])
    assert 1000 * told == pytest.approx(size, rel=0.05)
    assert "160 rows in" in said
    assert "teachers on their own labelled validation rows" in said
    write_cache(recipe, ["targets.views=3"])
    again = capsys.readouterr().out
    assert "rows in" not in again, "nothing is written twice"
    assert "cached: 2 teachers × 160 rows × 3 views" in again


def test_a_file_carries_what_made_it(tmp_path: Path) -> None:
    recipe = cache_world.cached(tmp_path / "world")
    path = next(recipe.parent.glob("hue-train.hue.*.safetensors"))
    with safe_open(path, "np") as opened:
        metadata = opened.metadata()
    card = json.loads(metadata["teacher"])["card"]
    assert card["labels"]["classes"] == list(toys.classes(3))
    assert card["shapes"]["second"] == {"channels": 10, "size": [2, 2], "pyramid": True}
    assert metadata["made.score"].endswith(" accuracy")
    assert metadata["rows.count"] == "40"
    arrays = load_file(path)
    assert {name: array.shape for name, array in arrays.items()} == {
        "logits": (40, 1, 3),
        "hidden.second": (40, 1, 10),
        "boxes": (40, 1, 4),
        "flips": (40, 1),
    }


def test_the_command_and_its_way_write_are_one(tmp_path: Path) -> None:
    recipe = cache_world.make(tmp_path / "world")
    for words in (
        ["cache", str(recipe)],
        ["cache", "--set", "seed=1", str(recipe)],
        ["cache", "write", str(recipe)],
    ):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
    assert len(contents(recipe)) == FILES


def test_a_bad_teacher_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    recipe = cache_world.make(tmp_path / "world")
    with pytest.raises(TeacherError, match="expected 99"):
        write_cache(recipe, ["tasks.hue.teacher.expect=99"])
    assert not contents(recipe)


def test_a_recipe_without_anything_to_ask_is_refused(tmp_path: Path) -> None:
    recipe = cache_world.make(tmp_path / "world")
    with pytest.raises(RecipeError, match=r"training\.teachers_on .*none"):
        write_cache(recipe, ["training.teachers_on=none"])
    silent = [f"tasks.{task}.weights={{soft_targets: 0, hint: 0}}" for task in ("hue", "shape")]
    with pytest.raises(RecipeError, match="no task has a teacher"):
        write_cache(recipe, silent)


# ---- where it writes --------------------------------------------------------------------------------
def test_a_folder_that_cannot_be_written_to_has_its_cache_in_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTILL_MTL_CACHE", str(tmp_path / "cache"))
    recipe = cache_world.make(tmp_path / "world")
    # Root may write anywhere, so permissions alone would not do.
    writable = plan_module._writable
    monkeypatch.setattr(plan_module, "_writable", lambda folder: folder != recipe.parent and writable(folder))
    write_cache(recipe, cache_world.VIEWS)
    assert not contents(recipe)
    assert len(list((cache_folder() / "targets").rglob("*.safetensors"))) == FILES
    parts = cache_world.parts(recipe, *cache_world.VIEWS, "targets.from=cached")
    assert parts.cached is not None


def test_a_full_disk_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = cache_world.make(tmp_path / "world")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(1, 1, 20_000))
    with pytest.raises(CacheError, match=r"cache.*\d+ kB.* 20 kB free.*targets\.views"):
        write_cache(recipe)
    assert not contents(recipe)


# ---- stopped, killed, shared ------------------------------------------------------------------------
def test_killed_with_kill_9_it_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    recipe = cache_world.make(tmp_path / "world")
    options = [f"--set={change}" for change in (*cache_world.VIEWS, SLOW)]
    process = subprocess.Popen(
        children.command("cache", recipe, *options),
        cwd=children.ROOT,
        env=children.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not contents(recipe):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.stderr.close()
    finished = cache_world.sidecars(recipe.parent)
    assert 0 < len(finished) < FILES, "it was killed in the middle"
    times = {path: path.stat().st_mtime_ns for path in finished}
    write_cache(recipe, (*cache_world.VIEWS, SLOW))
    assert {path: path.stat().st_mtime_ns for path in finished} == times, (
        "finished shards are left as they are"
    )
    after = contents(recipe)
    assert len(after) == FILES
    for path in cache_world.sidecars(recipe.parent):
        path.unlink()
    write_cache(recipe, (*cache_world.VIEWS, SLOW))
    assert contents(recipe) == after


def test_stopped_by_a_signal_it_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = cache_world.make(tmp_path / "world")
    written = []

    class StopLater(cache_module.StopRequest):
        @property
        def requested(self) -> bool:
            written.append(1)
            return len(written) > 100

    monkeypatch.setattr(cache_module, "StopRequest", StopLater)
    with pytest.raises(Stopped, match="2 of 4"):
        write_cache(recipe, [SLOW])
    assert len(contents(recipe)) == 4
    assert not list(recipe.parent.glob("*.part"))


def test_two_processes_write_the_files_of_one(tmp_path: Path) -> None:
    recipe = cache_world.make(tmp_path / "world")
    options = [f"--set={change}" for change in cache_world.VIEWS]
    for ended in forked.run_two("cache", recipe, *options):
        assert ended.status == 0, ended.text
    two = contents(recipe)
    assert len(two) == FILES
    for path in cache_world.sidecars(recipe.parent):
        path.unlink()
    write_cache(recipe, cache_world.VIEWS)
    assert contents(recipe) == two


def test_what_one_process_cannot_read_is_said_once_and_the_other_finishes(tmp_path: Path) -> None:
    recipe = cache_world.make(tmp_path / "world")
    toy_world.corrupt(recipe.parent / "hue-train-1.tar", 7, digits=3)
    # `auto` would look at this row before anything is cached.
    ended = forked.run_two("cache", recipe, "--set=training.teachers_on=missing")
    assert 0 not in {each.status for each in ended}
    said = "".join(each.text for each in ended)
    assert said.count("row hue-train-1-007") == 1, said
    assert "work.wait" not in said, "no process is left waiting for another"
    assert {name.split(".")[0] for name in contents(recipe)} == {"hue-train", "shape-train"}


# ---- verify -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("kept", [(), ("targets.logits=int8", "targets.features=int8")])
def test_a_true_cache_is_verified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kept: tuple[str, ...]
) -> None:
    overrides = (*cache_world.VIEWS, *kept)
    recipe = cache_world.cached(tmp_path / "world", *overrides)
    capsys.readouterr()
    verify_cache(recipe, overrides, rows=50)
    said = capsys.readouterr().out
    assert re.search(r"verified: 50 of 2 teachers × 160 rows × 3 views.*deviation hue 0\.", said)


@pytest.mark.parametrize(
    ("tensor", "change", "said"),
    [
        ("logits", lambda array: -array, "logits of hue"),
        ("hidden.second", lambda array: array[::-1], "hidden.second of hue"),
        ("flips", lambda array: 1 - array, "box or flip"),
        ("boxes", lambda array: np.maximum(array - 1, 1), "box or flip"),
    ],
)
def test_a_planted_change_is_found_with_row_and_file(
    tmp_path: Path, tensor: str, change: object, said: str
) -> None:
    recipe = cache_world.cached(tmp_path / "world", *cache_world.VIEWS)
    path = next(recipe.parent.glob("hue-train.hue.*.safetensors"))
    array = load_file(path)[tensor]
    content = path.read_bytes()
    assert content.count(array.tobytes()) == 1
    path.write_bytes(content.replace(array.tobytes(), np.ascontiguousarray(change(array)).tobytes()))
    with pytest.raises(CacheError) as caught:
        verify_cache(recipe, cache_world.VIEWS, rows=1000)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert re.search(r"hue/hue-train/hue-train-\d+, view \d", str(caught.value))
