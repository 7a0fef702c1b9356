"""`--seeds`: the same recipe with several seeds, each as if it had been run alone."""

import io
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import forked
import pytest
import quickstart
import torch
from rich.console import Console

from distill_mtl import Stopped, distill, load_recipe
from distill_mtl.errors import UserError
from distill_mtl.evaluation import Evaluation
from distill_mtl.evaluation.seeds import SeedRuns
from distill_mtl.jobs.seeds import distill_seeds
from distill_mtl.training.run_folder import RunFolder

QUIET = Console(quiet=True)


class Seeds:
    """Two seeds of the toy world, and what was printed."""

    def __init__(self, recipe: Path) -> None:
        self.recipe, self.out = recipe, recipe.parent / "seeds"
        text = io.StringIO()
        self.found = distill(recipe, seeds=2, out=self.out, console=Console(file=text, width=120))
        self.said = text.getvalue()


@pytest.fixture(scope="module")
def two(recipe: Path) -> Seeds:
    return Seeds(recipe)


def same_weights(one: Path, other: Path) -> bool:
    ours, theirs = quickstart.weights(one), quickstart.weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_each_seed_is_the_run_that_it_would_be_alone(two: Seeds, tmp_path: Path) -> None:
    alone = distill(two.recipe, ["seed=1"], out=tmp_path / "alone", console=QUIET)
    assert same_weights(two.out / "seed-1", tmp_path / "alone")
    assert not same_weights(two.out / "seed-0", tmp_path / "alone")
    assert two.found.runs[1].tasks == alone.tasks
    assert two.found.runs[0] == Evaluation.read(two.out / "seed-0" / "results.json")


def test_rows_are_drawn_alike_for_every_seed(two: Seeds) -> None:
    for task in ("hue", "shape"):
        one, other = (two.found.runs[seed].tasks[task] for seed in (0, 1))
        assert one.drawn_from == other.drawn_from
        assert len(one.resampled) == 100  # as many as there are


def test_teachers_are_checked_once_and_the_table_stands_at_the_end(two: Seeds) -> None:
    assert two.said.count("balance: ") == 1
    table = two.said[two.said.index("seeds, 2 seeds") :]
    assert "95 % over rows and seeds" in table
    for task, mean in two.found.tasks.items():
        (line,) = (line for line in table.splitlines() if line.strip().startswith(task))
        assert f"{mean.mean:+.2f}".replace("-", "−") in line
        assert "1: " in line
    assert table.strip().splitlines()[-1].startswith(("✓ accepted over 2 seeds", "? not accepted yet"))
    assert (two.out / "comparison.html").exists()


def test_finished_seeds_are_kept_and_one_that_was_killed_goes_on(two: Seeds, tmp_path: Path) -> None:
    out = tmp_path / "seeds"
    shutil.copytree(two.out, out)
    shutil.rmtree(out / "seed-1" / "checkpoints" / "step_00000006")
    (out / "seed-1" / "results.json").unlink()
    kept = (out / "seed-0" / "results.json").stat().st_mtime_ns
    text = io.StringIO()
    found = distill(two.recipe, seeds=2, out=out, resume=True, console=Console(file=text))
    assert (out / "seed-0" / "results.json").stat().st_mtime_ns == kept
    assert "finished, and kept" in text.getvalue()
    assert "resuming after step 3 of 6" in text.getvalue()
    assert same_weights(out / "seed-1", two.out / "seed-1")
    assert {seed: run.tasks for seed, run in found.runs.items()} == {
        seed: run.tasks for seed, run in two.found.runs.items()
    }


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_two_processes_run_the_seeds_together(two: Seeds, tmp_path: Path) -> None:
    out = tmp_path / "seeds"
    first, second = forked.run_two("distill", two.recipe, "--seeds", 2, "--out", out)
    assert (first.status, second.status) == (0, 0), first.text + second.text
    assert first.text.count("over 2 seeds") == 1
    assert "over 2 seeds" not in second.text
    found = [Evaluation.read(out / f"seed-{seed}" / "results.json") for seed in (0, 1)]
    assert [run.steps for run in found] == [6, 6]
    assert found[0].tasks["hue"].drawn_from == two.found.runs[0].tasks["hue"].drawn_from
    assert (out / "comparison.html").exists()


def test_what_would_lose_or_mix_runs_is_refused(two: Seeds, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"seed-0 already holds a run\. Continue with --resume"):
        distill(two.recipe, seeds=3, out=two.out, console=QUIET)
    with pytest.raises(UserError, match=r"(?s)seed-0 was started with another recipe.*temperature"):
        distill(two.recipe, ["tasks.hue.temperature=2"], seeds=2, out=two.out, resume=True, console=QUIET)
    with pytest.raises(UserError, match="has no run of these seeds to continue"):
        distill(two.recipe, seeds=2, out=tmp_path, resume=True, console=QUIET)
    with pytest.raises(UserError, match="--seeds 1: expected a whole number from 2 to 100"):
        distill(two.recipe, seeds=1, out=tmp_path, console=QUIET)


def test_overwriting_that_is_stopped_leaves_no_old_run_that_counts_as_new(two: Seeds, tmp_path: Path) -> None:
    out = tmp_path / "seeds"
    shutil.copytree(two.out, out)
    begun: list[tuple[int, bool]] = []

    def stopped(recipe: Any, folder: RunFolder, console: Console, **asked: Any) -> Any:
        begun.append((recipe.seed, asked["resume"]))
        raise Stopped("stopped.")

    def finished(
        recipe: Any, folder: RunFolder, console: Console, *, checked: Mapping[str, Any] | None, **asked: Any
    ) -> Any:
        begun.append((recipe.seed, asked["resume"]))
        shutil.copytree(two.out / folder.path.name, folder.path, dirs_exist_ok=True)
        return Evaluation.read(folder.results), checked or {}

    recipe = load_recipe(two.recipe)

    def work(one_run: Any, **asked: bool) -> SeedRuns:
        return distill_seeds(recipe, out, 2, one_run, console=QUIET, **asked)

    with pytest.raises(Stopped, match=r"stopped in seed 0, 1 of 2\. Continue with --resume"):
        work(stopped, resume=False, overwrite=True)
    work(finished, resume=True, overwrite=False)
    assert begun == [(0, False), (0, False), (1, False)]
