"""The merge bench: arithmetic of its table, what is run again, and the loop's views."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import candidates
import merge_loop
import merge_scores
import merge_sets
import merges

from distill_mtl.data.batch import Batch

TASKS = ("a", "b")


def scored(a: float, b: float, noise: float = 0.0) -> merge_scores.Scored:
    """A run with an error `a` (less is better) and a score `b`, whose replicates all lie off by the same noise."""
    swing = noise * np.linspace(-1, 1, merge_scores.RESAMPLES)
    return merge_scores.Scored(
        scores={"a": a, "b": b},
        signs={"a": -1, "b": 1},
        metrics={"a": "error", "b": "accuracy"},
        rows={"a": 10, "b": 10},
        replicates={"a": a + swing, "b": b + swing},
        cpu=1.0,
        notes={},
    )


def test_a_smaller_error_is_a_lead():
    lead = merge_scores.lead_of({0: scored(1, 50)}, {0: scored(3, 51)}, TASKS)
    assert lead is not None
    assert (lead.points, lead.half, lead.parts.seeds) == (0.5, 0.0, 1)


def test_what_is_hard_about_the_rows_cancels_in_a_lead():
    lead = merge_scores.lead_of({0: scored(1, 50, noise=5)}, {0: scored(1, 48, noise=5)}, ["b"])
    assert lead is not None
    assert lead.half == pytest.approx(0)


def test_seeds_that_disagree_widen_the_interval():
    mine = {0: scored(0, 50), 1: scored(0, 54), 2: scored(0, 99)}
    lead = merge_scores.lead_of(mine, {0: scored(0, 50), 1: scored(0, 50)}, ["b"])
    assert lead is not None
    assert lead.parts.seeds == 2
    assert lead.points == 2
    # Student's quantile of one degree of freedom.
    assert lead.half == pytest.approx(12.706 * (8 / 2) ** 0.5, rel=1e-4)


def test_teachers_stand_beside_every_seed():
    fixed = {merge_scores.FIXED: scored(0, 40)}
    mine = {0: scored(0, 50), 1: scored(0, 52)}
    forth, back = (merge_scores.lead_of(*pair, ["b"]) for pair in ((mine, fixed), (fixed, mine)))
    assert forth is not None
    assert back is not None
    assert forth.points == 11 == -back.points


def test_entrants_without_a_common_seed_are_not_compared():
    assert merge_scores.lead_of({0: scored(0, 1)}, {1: scored(0, 1)}, TASKS) is None


def test_equal_entrants_share_a_rank():
    assert merge_scores.ranks({"x": 3, "y": 1, "z": 3}) == {"x": 1.5, "y": 3, "z": 1.5}


def test_other_variants_do_not_change_a_rank():
    runs = {
        "loop": {0: scored(0, 10)},
        "ours": {0: scored(0, 9)},
        "a": {0: scored(0, 12)},
        "b": {0: scored(0, 11)},
    }
    assert [merge_scores.rank_of(name, runs) for name in runs] == [1, 2, 1, 1]


def test_the_table_measures_against_the_better_of_the_loops():
    runs = {
        "loop": {0: scored(0, 10)},
        "loop-labels": {0: scored(0, 20)},
        "ours": {0: scored(0, 21)},
        "teachers": {merge_scores.FIXED: scored(0, 30)},
    }
    assert merge_scores.better_loop(runs) == "loop-labels"
    lines = merge_scores.whole_lines({"m, short": runs})
    ours = next(line for line in lines if line.startswith("| ours"))
    assert "2.00" in ours
    assert "+0.50 ± 0.00 (m, short)" in ours
    assert "1 of 1" in ours
    table = merge_scores.block_lines("m", runs, "ours")
    assert "+1.00 ± 0.00" in next(line for line in table if line.startswith("| loop-labels"))


def test_a_run_is_there_when_its_scores_are(tmp_path):
    run = merges.Run("digits", "short", "loop", 0)
    assert not merges.is_there(run, tmp_path)
    write(run, tmp_path)
    assert merges.is_there(run, tmp_path)
    assert list(merges.runs_of("digits", "short", tmp_path)) == ["loop"]


def test_a_run_that_was_cut_off_is_not_in_the_table(tmp_path):
    run = merges.Run("digits", "short", "loop", 0)
    write(run, tmp_path)
    run.folder(tmp_path).rename(run.folder(tmp_path).with_name("0.part"))
    assert not merges.is_there(run, tmp_path)
    assert not merges.runs_of("digits", "short", tmp_path)


def test_two_invocations_do_not_make_one_run_twice(tmp_path):
    run = merges.Run("digits", "short", "loop", 0)
    progress = merges.Progress([run], tmp_path)
    with merges.claim(run.folder(tmp_path)) as mine:
        assert mine
        assert not merges.make(run, tmp_path, [], progress)
        write(run, tmp_path)
    assert merges.make(run, tmp_path, [], progress)  # which runs nothing: the other has made it
    assert not progress.left


def test_ours_is_run_again_when_a_default_changes(tmp_path):
    run = merges.Run("quickstart", "short", "ours", 0)
    write(run, tmp_path)
    long = run.folder(tmp_path) / "recipe.long.yaml"
    long.write_text(merges.of_today(run, tmp_path))
    assert merges.is_there(run, tmp_path)
    long.write_text(long.read_text().replace("batch_size: 128", "batch_size: 64"))
    assert not merges.is_there(run, tmp_path)


def test_a_name_stands_for_one_variant(tmp_path):
    assert merges.sets_of("fast", ["optimizer.lr=1"], tmp_path) == ["optimizer.lr=1"]
    assert merges.sets_of("fast", [], tmp_path) == ["optimizer.lr=1"]
    for name, sets in (("fast", ["optimizer.lr=2"]), ("loop", ["optimizer.lr=2"]), ("new", [])):
        with pytest.raises(SystemExit, match=name):
            merges.sets_of(name, sets, tmp_path)


def test_teachers_are_measured_once():
    runs = merges.planned(["digits"], ["short"], ["teachers", "ours"], [0, 1])
    assert [(run.entrant, run.seed) for run in runs] == [("teachers", merges.FIXED), ("ours", 0), ("ours", 1)]


def test_old_defaults_do_not_override_a_recipe():
    recipe = {"tasks": {"a": {"temperature": 1.0, "data": {"augment": {"crop": None}}}}, "data": {"pool": {}}}
    old = merge_sets.with_old_defaults(recipe, {"optimizer": {"lr": 3e-3}})
    assert old["optimizer"]["lr"] == 3e-3
    assert old["optimizer"]["warmup"] == 0.05
    assert old["tasks"]["a"]["temperature"] == 1.0
    assert old["tasks"]["a"]["data"]["augment"]["flip"]
    assert old["tasks"]["a"]["data"]["augment"]["crop"] is None
    assert old["data"]["pool"]["augment"] == merge_sets.OLD_AUGMENT


def test_a_star_stands_for_every_task_or_data_set():
    recipe = {"tasks": {"a": {"data": {}}, "b": {}}, "data": {"pool": {}}}
    found = merge_sets.overrides(["tasks.*.hints=[]", "data.*.augment.flip=false", "seed=3"], recipe)
    assert found == [
        "tasks.a.hints=[]",
        "tasks.b.hints=[]",
        "tasks.a.data.augment.flip=false",
        "data.pool.augment.flip=false",
        "seed=3",
    ]


def test_pictures_and_masks_move_together():
    picture = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4)
    down, right = torch.tensor([1]), torch.tensor([-2])
    there = merge_loop.moved(picture, down, right, 99)
    assert there[0, 0, 1].tolist() == [2, 3, 99, 99]
    assert (there[0, 0, 0] == 99).all()
    assert torch.equal(merge_loop.moved(picture[:, 0], down, right, 99), there[:, 0])


def test_every_row_comes_once_in_a_pass():
    take = merge_loop.endless(5, torch.Generator().manual_seed(0))
    assert sorted(torch.cat([take(3), take(2)]).tolist()) == [0, 1, 2, 3, 4]
    assert len(take(13)) == 13


def test_the_search_of_a_rate_goes_on_beyond_its_end(tmp_path, monkeypatch):
    made = []

    def make_all(runs, work, sets, progress):
        for run in runs:
            rate = float(run.entrant.removeprefix("rate-"))
            made.append(rate)
            write(run, work, validation=-abs(rate - 1.0), bf16=False)

    monkeypatch.setattr(merges, "make_all", make_all)
    merges.choose_rate("digits", tmp_path, merges.Progress([], tmp_path))
    assert made == [0.02, 0.05, 0.12, 0.3, 0.75, 1.875]
    assert json.loads((tmp_path / "runs" / "digits" / merges.LOOP).read_text())["rate"] == 0.75
    assert merges.Run("digits", "short", "loop", 0).finished(tmp_path)


def write(run: merges.Run, work: Path, **notes: object) -> None:
    """A finished run of one task."""
    folder = run.folder(work)
    folder.mkdir(parents=True)
    task = {"score": 1.0, "sign": 1, "metric": "accuracy", "rows": 3}
    (folder / merge_scores.SCORES).write_text(json.dumps({"tasks": {"a": task}, "cpu_seconds": 1.0, **notes}))
    np.savez(folder / merge_scores.REPLICATES, a=np.zeros(3))


@pytest.mark.parametrize("mix", [candidates.mixed_up, candidates.cut_and_mixed])
def test_half_of_a_batch_is_mixed_and_loses_its_labels(mix: candidates.Mix):
    rows = torch.arange(0, 240, 10, dtype=torch.uint8)
    images = rows[:, None, None, None].expand(-1, 3, 8, 8).contiguous()
    batch = Batch(
        images,
        labels={"a": rows.long()},
        labelled={"a": torch.ones(24, dtype=torch.bool)},
        keys=[str(row) for row in rows.tolist()],
        source=torch.zeros(24, dtype=torch.long),
    )
    seen = candidates.mixed(batch, mix, torch.Generator().manual_seed(0))
    kept = seen.labelled["a"]
    assert kept.sum() == 12
    assert seen.images[kept].equal(images[kept])
    changed = (seen.images != images).flatten(1).any(1)
    assert changed[~kept].float().mean() > 0.5
    assert batch.labelled["a"].all(), "the batch itself stays"


def test_the_mean_of_weights_leaves_counters_alone():
    states = [{"w": torch.tensor([n]), "n": torch.tensor(int(n))} for n in (1.0, 3.0)]
    assert candidates.mean_of(states) == {"w": torch.tensor([2.0]), "n": torch.tensor(3)}
