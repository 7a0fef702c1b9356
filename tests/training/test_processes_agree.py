import shutil
from itertools import islice
from pathlib import Path

import children
import forked
import pytest
import quickstart
import toy_world
from rich.console import Console

from distill_mtl import distill, load_recipe
from distill_mtl.demos import built_in
from distill_mtl.training.parts import build

STEPS = "--set=training.steps=15"


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("one") / "run"
    ended = forked.run("distill", quickstart.RECIPE, "--out", out, *quickstart.EXACT, STEPS, seconds=200)
    assert ended.status == 0, ended.text
    return out


def test_two_processes_equal_one_with_the_same_global_batch(one: Path, tmp_path: Path) -> None:
    two = tmp_path / "two"
    for ended in forked.run_two("distill", quickstart.RECIPE, "--out", two, *quickstart.EXACT, STEPS):
        assert ended.status == 0, ended.text
    for ours, theirs in zip(quickstart.metrics(one), quickstart.metrics(two), strict=True):
        assert ours["cosines"] == pytest.approx(theirs["cosines"], abs=2e-3), ours["step"]
        assert ours["norm"] == pytest.approx(theirs["norm"], rel=2e-3), ours["step"]
        for task, terms in ours["tasks"].items():
            assert terms == pytest.approx(theirs["tasks"][task], rel=2e-3, abs=1e-4), (ours["step"], task)
    assert_same_weights(one, two)


def test_a_row_that_one_process_cannot_read_stops_all_with_its_name_and_a_checkpoint(tmp_path: Path) -> None:
    shard = tmp_path / "left-train.tar"
    shutil.copy(built_in.shard("multidigits:left-train", "data.left.shards"), shard)
    changes = [change.removeprefix("--set=") for change in (*quickstart.EXACT, "--set=training.steps=30")]
    recipe = load_recipe(children.ROOT / quickstart.RECIPE, [*changes, f"data.left.shards={shard}"])
    late = islice(build(recipe).sources.stream(start_step=24, steps=30), 4)
    key = next(key for batch in late for key in batch.keys if key.startswith("left/"))
    toy_world.corrupt(shard, int(key[-5:]), digits=5)
    steps, shards = "--set=training.steps=30", f"--set=data.left.shards={shard}"
    done = quickstart.tried(tmp_path / "run", steps, shards, launcher=children.TWO)
    assert done.returncode != 0
    name = key.rpartition("/")[2]
    assert done.stderr.count(f"row {name}, ") == 1, done.stderr
    assert "--resume" in done.stderr
    assert list((tmp_path / "run" / "checkpoints").glob("step_*"))


def test_launched_without_the_cpu_variable_two_processes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun alone starts two processes that Accelerate takes for two first ones."""
    with_it = children.environment()
    monkeypatch.setattr(
        children, "environment", lambda: {k: v for k, v in with_it.items() if k != "ACCELERATE_USE_CPU"}
    )
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0")
    done = quickstart.tried(tmp_path / "run", STEPS, launcher=launcher)
    assert done.returncode != 0
    assert "the launcher started 2 processes on a machine without a GPU" in done.stderr
    assert not (tmp_path / "run").exists()


def test_micro_batches_equal_the_whole_batch_under_the_uniform_rule(tmp_path: Path) -> None:
    recipe = toy_world.build(tmp_path)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for out, accumulate in ((whole, 1), (parts, 3)):
        changes = [
            "balance=uniform",
            "training.steps=15",
            "optimizer.lr=3e-3",
            f"training.accumulate={accumulate}",
        ]
        distill(load_recipe(recipe, changes), out=out, console=Console(quiet=True))
    assert_same_weights(whole, parts)


def assert_same_weights(one: Path, other: Path) -> None:
    ours, theirs = quickstart.weights(one), quickstart.weights(other)
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        difference = (weight - theirs[name]).float().abs().max()
        assert difference <= 2e-3 * max(1.0, float(weight.float().abs().max())), name


@pytest.mark.parametrize("job", ["check", "distill"])
def test_what_the_first_process_refuses_ends_the_others_too(tmp_path: Path, job: str) -> None:
    recipe = toy_world.build(tmp_path)
    out = ["--out", tmp_path / "out"] if job == "distill" else []
    done = children.run(job, recipe, *out, "--set=tasks.hue.teacher.expect=99", launcher=children.TWO)
    assert done.returncode != 0
    assert done.stderr.count("tasks.hue.teacher") == 1, done.stderr
    for waiting in ("gloo", "Connection closed", "work.wait"):
        assert waiting not in done.stderr, done.stderr
